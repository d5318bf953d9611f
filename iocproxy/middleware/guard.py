"""What the built-in limits have in common: they come before user code, at every listener, and answer for the proxy."""

from __future__ import annotations

from collections.abc import Iterable

from iocproxy.message import Response, reason_phrase


class Guard:
    """A built-in member of the chain that may refuse.

    Beside the hooks of any middleware it may have ``on_ended(client, request, status)``, a plain method that is called
    once for every request when it is over, before `on_complete`: `request` is None where none could be read, `status`
    is what the client was answered, 0 for nothing. It must not raise.
    """

    __slots__ = ()


class Refusal(Response):
    """A guard's answer. Unlike a middleware's it is one of the proxy's own errors: the body is made for the client that
    asked, or is the operator's page for the status. `why` goes into the record. With `closes` it is the last answer on
    its connection.

    A flood is answered with these, so nothing of one is checked: `headers` are ours, in ASCII, and good as they are.
    """

    __slots__ = ("closes", "why")

    def __init__(self, status: int, why: str, headers: Iterable[tuple[str, str]] = (), *, closes: bool = False) -> None:
        self.status = status
        self.reason = reason_phrase(status)
        self.fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
        self.body = None
        self.why = why
        self.closes = closes
