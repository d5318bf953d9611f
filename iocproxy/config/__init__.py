"""The configuration: read from TOML or made in Python, checked whole, immutable afterwards.

Nothing here is called while serving; the layers above read plain values off the models.
"""

from __future__ import annotations

from iocproxy.config.limit_values import Key, KeyPart, Rate, Rates
from iocproxy.config.limits import (
    AccessLists,
    Bandwidth,
    ConnectionLimits,
    HandshakeLimits,
    LimitRule,
    Limits,
    Penalty,
    Redis,
    RequestLimits,
    RouteBandwidth,
    RouteLimits,
    RouteRequestLimits,
)
from iocproxy.config.load import load_config, parse_config
from iocproxy.config.manual import reference_markdown
from iocproxy.config.model import Config
from iocproxy.config.parts import Parts
from iocproxy.config.schema import config_schema
from iocproxy.config.sections import (
    Admin,
    Certificate,
    ClientCertificateFields,
    Errors,
    Forwarding,
    Health,
    Http,
    Listener,
    Logging,
    Middleware,
    Route,
    RouteHttp,
    RouteTimeouts,
    ServerSettings,
    Timeouts,
    Tls,
    TlsHosts,
    Upstream,
)
from iocproxy.config.starter import example_toml
from iocproxy.config.values import Bind, Hsts, Network, Server

__all__ = [
    "AccessLists",
    "Admin",
    "Bandwidth",
    "Bind",
    "Certificate",
    "ClientCertificateFields",
    "Config",
    "ConnectionLimits",
    "Errors",
    "Forwarding",
    "HandshakeLimits",
    "Health",
    "Hsts",
    "Http",
    "Key",
    "KeyPart",
    "LimitRule",
    "Limits",
    "Listener",
    "Logging",
    "Middleware",
    "Network",
    "Parts",
    "Penalty",
    "Rate",
    "Rates",
    "Redis",
    "RequestLimits",
    "Route",
    "RouteBandwidth",
    "RouteHttp",
    "RouteLimits",
    "RouteRequestLimits",
    "RouteTimeouts",
    "Server",
    "ServerSettings",
    "Timeouts",
    "Tls",
    "TlsHosts",
    "Upstream",
    "config_schema",
    "example_toml",
    "load_config",
    "parse_config",
    "reference_markdown",
]
