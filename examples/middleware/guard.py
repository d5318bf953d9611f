"""Two middlewares. README.md says how to run them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping

from iocproxy import Request, Response


class RequireToken:
    """Answers 401 unless the request has a known bearer token; tells the upstream whose it is, in X-User.

    `tokens` maps each token to its user; paths that begin with one of `public` need none.
    """

    def __init__(self, tokens: Mapping[str, str], public: Iterable[str] = ()) -> None:
        # Looked up by digest: how long that takes says nothing about the tokens.
        self._users = {_digest(token): user for token, user in tokens.items()}
        self._public = tuple(public)

    def on_request(self, request: Request) -> Response | None:
        headers = request.headers
        headers.pop("X-User", None)  # ours to say, never the client's
        if self._public and request.path.startswith(self._public):
            return None
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        user = self._users.get(_digest(token.strip())) if scheme.lower() == "bearer" else None
        if user is None:
            return Response(
                401, {"WWW-Authenticate": "Bearer", "Content-Type": "text/plain"}.items(), b"Who are you?\n"
            )
        del headers["Authorization"]  # the upstream has no use for it
        headers["X-User"] = user
        return None


class RequestId:
    """Gives every request an id: the upstream gets it in X-Request-Id, and so does the client with its response."""

    def on_request(self, request: Request) -> None:
        request.state["id"] = request.headers["X-Request-Id"] = secrets.token_hex(8)

    def on_response(self, request: Request, response: Response) -> None:
        response.headers["X-Request-Id"] = request.state["id"]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
