"""The chain: every middleware's hooks, sorted by event once, when the configuration is compiled.

An event without a hook costs one empty tuple. The exchange runs the hooks itself, because only it knows how to wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from iocproxy.message import Client, Record, Request, Response
from iocproxy.middleware.request_limits import RequestLimits

OnConnect = Callable[[Client], "bool | str | Awaitable[bool | None] | None"]
OnRequest = Callable[[Request], "Response | Awaitable[Response | None] | None"]
OnResponse = Callable[[Request, Response], "Awaitable[None] | None"]
OnComplete = Callable[[Record], "Awaitable[None] | None"]
OnDisconnect = Callable[[Client], None]


class Doorkeeper(NamedTuple):
    """What one member does at the door: `enter` may refuse; `leave` is called for everyone it let in."""

    enter: OnConnect
    leave: OnDisconnect


class Chain:
    """The hooks in the order of the middlewares. Immutable; one for each configuration."""

    __slots__ = (
        "doorkeepers",
        "members",
        "on_complete",
        "on_request",
        "on_response",
        "request_limits",
        "rewrites",
        "shows_requests",
    )

    def __init__(self, members: Iterable[object]) -> None:
        self.members = tuple(members)
        self.doorkeepers = tuple(
            Doorkeeper(getattr(member, "on_connect", _welcome), getattr(member, "on_disconnect", _welcome))
            for member in self.members
            if hasattr(member, "on_connect") or hasattr(member, "on_disconnect")
        )
        self.on_request: tuple[OnRequest, ...] = self._hooks("on_request")
        self.on_response: tuple[OnResponse, ...] = self._hooks("on_response")
        self.on_complete: tuple[OnComplete, ...] = self._hooks("on_complete")
        #: for a listener that serves no request and has to limit them all the same
        self.request_limits = next((member for member in self.members if isinstance(member, RequestLimits)), None)
        #: whether a request may have been changed by user code and has to be checked before it is forwarded
        self.rewrites = any(
            hasattr(member, "on_request") and not isinstance(member, RequestLimits) for member in self.members
        )
        #: whether user code gets to see requests, and so needs some of its own to change
        self.shows_requests = self.rewrites or bool(self.on_response)

    def _hooks(self, event: str) -> tuple[Any, ...]:
        found = (getattr(member, event, None) for member in self.members)
        return tuple(hook for hook in found if hook is not None)

    def __repr__(self) -> str:
        return f"<Chain {' -> '.join(type(member).__name__ for member in self.members)}>"


def _welcome(client: Client) -> None:
    """For a member that takes part in one end of a connection only."""


#: The events a middleware can take part in; a class with none of them is a mistake.
EVENTS = ("on_connect", "on_request", "on_response", "on_complete", "on_disconnect")
