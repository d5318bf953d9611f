"""Real proxies, origins and certificates for somebody's test suite.

The pytest plugin is `iocproxy.testing.plugin`; what its fixtures hand out, and what goes with them, is here. Names are
imported when they are asked for: a test suite that has iocproxy installed and does not use it pays for nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iocproxy.clock import ManualClock
    from iocproxy.testing.certificates import CertificatePair, Certificates
    from iocproxy.testing.factories import OriginFactory, ProxyFactory
    from iocproxy.testing.origin import Origin
    from iocproxy.testing.received import Exchange, ReceivedRequest
    from iocproxy.testing.routes import pattern
    from iocproxy.testing.running import RunningProxy
    from iocproxy.testing.script import (
        Close,
        Expect,
        ExpectEnd,
        ExpectRequest,
        ExpectUntil,
        HalfClose,
        Reset,
        Script,
        Send,
        WaitFor,
    )
    from iocproxy.testing.wire import RawClient, RawResponse, TruncatedError, WireError

_MODULES = {
    "CertificatePair": "certificates",
    "Certificates": "certificates",
    "Close": "script",
    "Exchange": "received",
    "Expect": "script",
    "ExpectEnd": "script",
    "ExpectRequest": "script",
    "ExpectUntil": "script",
    "HalfClose": "script",
    "ManualClock": "iocproxy.clock",
    "Origin": "origin",
    "OriginFactory": "factories",
    "ProxyFactory": "factories",
    "RawClient": "wire",
    "RawResponse": "wire",
    "ReceivedRequest": "received",
    "Reset": "script",
    "RunningProxy": "running",
    "Script": "script",
    "Send": "script",
    "TruncatedError": "wire",
    "WaitFor": "script",
    "WireError": "wire",
    "pattern": "routes",
}

__all__ = [
    "CertificatePair",
    "Certificates",
    "Close",
    "Exchange",
    "Expect",
    "ExpectEnd",
    "ExpectRequest",
    "ExpectUntil",
    "HalfClose",
    "ManualClock",
    "Origin",
    "OriginFactory",
    "ProxyFactory",
    "RawClient",
    "RawResponse",
    "ReceivedRequest",
    "Reset",
    "RunningProxy",
    "Script",
    "Send",
    "TruncatedError",
    "WaitFor",
    "WireError",
    "pattern",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module if "." in module else f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
