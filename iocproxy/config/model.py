"""The whole configuration, and what must hold between its sections."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError

from iocproxy.config.base import Section
from iocproxy.config.faults import place, problems_of, raise_faults
from iocproxy.config.limits import Bandwidth, Limits
from iocproxy.config.sections import (
    Admin,
    Errors,
    Forwarding,
    Http,
    Listener,
    Logging,
    Middleware,
    Route,
    ServerSettings,
    Timeouts,
    Upstream,
)
from iocproxy.config.shapes import UNBOUNDED, Items, NotYet, SomeItems, UpstreamName
from iocproxy.config.source import Source, current
from iocproxy.config.whole import contradictions
from iocproxy.errors import Fault


class Config(Section):
    """A complete configuration, checked and immutable.

    Made from keyword arguments named like the sections of the file; each value a mapping with the keys of the
    section, or an instance of its model. Raises `iocproxy.errors.ConfigError` with all faults at once.
    """

    server: ServerSettings = Field(default_factory=ServerSettings, description="The process as a whole.")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="How long each state may last.")
    http: Http = Field(default_factory=Http, description="Bounds of HTTP/1 messages.")
    forwarding: Forwarding = Field(default_factory=Forwarding, description="What upstreams are told about a request.")
    errors: Errors = Field(default_factory=Errors, description="Pages for the proxy's own errors.")
    listeners: SomeItems[Listener] = Field(description="The addresses that clients connect to.")
    limits: Limits = Field(default_factory=Limits, description="What one client may take.")
    routes: Items[Route] = Field((), description="Which upstream answers which request.")
    upstreams: dict[UpstreamName, Upstream] = Field(description="The groups of servers, each under its name.")
    middleware: Items[Middleware] = Field((), description="User code around every request.")
    admin: Annotated[Admin | None, NotYet(None, "`[admin]`")] = Field(
        None, description="Metrics, status and dashboard."
    )
    logging: Logging = Field(default_factory=Logging, description="What is logged, and where.")

    _source: Source | None = PrivateAttr(default_factory=current)

    def __init__(self, /, **settings: Any) -> None:
        # Both kinds of faults are looked for in any case: whoever mends a file wants to do it once. Unlike that of a
        # section this `__init__` is not marked as pydantic's own, so that `model_validate` comes through here too.
        problems = contradictions(settings)
        try:
            super(Section, self).__init__(**settings)
        except ValidationError as error:
            problems = [*problems_of(error, type(self), settings), *problems]
        if problems:
            raise_faults(problems)

    def __eq__(self, other: object) -> bool:
        """The same settings; where they were read from makes no difference."""
        return vars(self) == vars(other) if isinstance(other, Config) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # the upstreams are a dict

    def placed(self, fault: Fault) -> Fault:
        """`fault`, found while loading what this configuration names, with the file and line of its key path."""
        return place(fault, self._source)

    def http_of(self, route: Route) -> Http:
        """What holds for the requests of `route`: its own settings, and `[http]` for the rest."""
        return self.http.model_copy(update=_given(route.http))

    def timeouts_of(self, route: Route) -> Timeouts:
        """As `http_of`, of the timeouts."""
        return self.timeouts.model_copy(update=_given(route.timeouts))

    def bandwidth_of(self, route: Route) -> Bandwidth:
        """As `http_of`, of the octets a second."""
        own = _given(route.limits.bandwidth)
        return self.limits.bandwidth.model_copy(
            update={name: None if value == UNBOUNDED else value for name, value in own.items()}
        )

    @property
    def effective_routes(self) -> tuple[Route, ...]:
        """The routes; without any, the one that sends everything to the only upstream."""
        if self.routes:
            return self.routes
        (name,) = self.upstreams
        return (Route(upstream=name),)


def _given(section: Section) -> dict[str, Any]:
    """The settings that do not leave it to another section."""
    return {name: value for name, value in section if value is not None}
