"""iocproxy: an asynchronous reverse proxy, Windows first.

    from iocproxy import Config, Proxy

    config = Config(listeners=[{"bind": "127.0.0.1:8080"}], upstreams={"app": {"servers": ["http://127.0.0.1:9000"]}})
    await Proxy(config).serve()

The names below are imported when they are first used, so that ``import iocproxy`` costs a program (or a test suite that
has the pytest plugin installed) nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iocproxy.config import Config, load_config
    from iocproxy.errors import ConfigError, Fault, IocproxyError, ProxyError
    from iocproxy.message import Client, ClientCertificate, Headers, Record, Request, Response
    from iocproxy.server import Proxy

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ClientCertificate",
    "Config",
    "ConfigError",
    "Fault",
    "Headers",
    "IocproxyError",
    "Proxy",
    "ProxyError",
    "Record",
    "Request",
    "Response",
    "__version__",
    "load_config",
]

_HOMES = {
    "iocproxy.config": ("Config", "load_config"),
    "iocproxy.errors": ("ConfigError", "Fault", "IocproxyError", "ProxyError"),
    "iocproxy.message": ("Client", "ClientCertificate", "Headers", "Record", "Request", "Response"),
    "iocproxy.server": ("Proxy",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
