"""The chain: every middleware's hooks, sorted by event once, when the configuration is compiled.

An event without a hook costs one empty tuple. The exchange runs the hooks itself, because only it knows how to wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from iocproxy.message import Client, Record, Request, Response
from iocproxy.middleware.guard import Guard

OnConnect = Callable[[Client], "bool | str | Awaitable[bool | str | None] | None"]
OnRequest = Callable[[Request], "Response | Awaitable[Response | None] | None"]
OnResponse = Callable[[Request, Response], "Awaitable[None] | None"]
OnComplete = Callable[[Record], "Awaitable[None] | None"]
OnDisconnect = Callable[[Client], None]
OnEnded = Callable[[Client, "Request | None", int], None]


class Doorkeeper(NamedTuple):
    """What one member does at the door: `enter` may refuse; `leave` is called for everyone it let in."""

    enter: OnConnect
    leave: OnDisconnect


class Chain:
    """The hooks in the order of the middlewares; one for each configuration. Nothing but `screen` changes it."""

    __slots__ = (
        "doorkeepers",
        "guards",
        "members",
        "on_complete",
        "on_ended",
        "on_request",
        "on_response",
        "own_doorkeepers",
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
        guards = [member for member in self.members if isinstance(member, Guard)]
        #: how many of the doorkeepers are built in; they come first
        self.own_doorkeepers = sum(hasattr(guard, "on_connect") or hasattr(guard, "on_disconnect") for guard in guards)
        self.on_ended: tuple[OnEnded, ...] = tuple(
            hook for guard in guards if (hook := getattr(guard, "on_ended", None)) is not None
        )
        #: the built-in limits' share of `on_request`, for a listener that serves no request and has to limit them all
        #: the same
        self.guards: tuple[OnRequest, ...] = tuple(
            hook for guard in guards if (hook := getattr(guard, "on_request", None)) is not None
        )
        #: whether a request may have been changed by user code and has to be checked before it is forwarded
        self.rewrites = len(self.on_request) > len(self.guards)
        #: whether user code gets to see requests, and so needs some of its own to change
        self.shows_requests = self.rewrites or bool(self.on_response)

    def screen(self, hook: Callable[[Request], Response | None]) -> None:
        """From now on a built-in `hook` sees every request before all others, so that nobody pays for it until then.

        No other hook gets another number by that: those that are being waited for go on behind theirs.
        """
        if self.on_request:
            self.on_request = (_both(hook, self.on_request[0]), *self.on_request[1:])
        else:
            self.on_request = (hook,)
        self.guards = (hook, *self.guards)

    def _hooks(self, event: str) -> tuple[Any, ...]:
        found = (getattr(member, event, None) for member in self.members)
        return tuple(hook for hook in found if hook is not None)

    def __repr__(self) -> str:
        return f"<Chain {' -> '.join(type(member).__name__ for member in self.members)}>"


def _both(first: Callable[[Request], Response | None], then: OnRequest) -> OnRequest:
    def both(request: Request) -> Response | Awaitable[Response | None] | None:
        said = first(request)
        return then(request) if said is None else said

    return both


def _welcome(client: Client) -> None:
    """For a member that takes part in one end of a connection only."""


#: The events a middleware can take part in; a class with none of them is a mistake.
EVENTS = ("on_connect", "on_request", "on_response", "on_complete", "on_disconnect")
