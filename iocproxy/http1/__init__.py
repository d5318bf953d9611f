"""HTTP/1 as pure functions and small state machines: bytes in, parsed parts out, and back.

No I/O, no logging, no time. A message is read in three steps that never overlap, so the end of each is known exactly:

1. `heads.HeadBuffer` cuts the head out of the stream (everything up to the first empty line), within its limits.
2. `request.RequestHeadParser` / `response.ResponseHeadParser` hand that slice, and nothing else, to llhttp, then decide
   the framing (`framing`) and sort the fields into end-to-end and hop-by-hop ones (`fields`).
3. `body` takes the body out of what follows, by length, by chunks or until the connection closes.

llhttp sees heads only: it never counts a body, so the two cannot disagree on where a message ends.
"""
