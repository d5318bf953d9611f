"""What the fixtures `iocproxy` and `iocproxy_origin_factory` are: callables that own what they make."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from iocproxy.testing.certificates import CertificatePair, Certificates
from iocproxy.testing.origin import Origin
from iocproxy.testing.settings import Tls, Upstreams, sections

if TYPE_CHECKING:
    from iocproxy.clock import Clock
    from iocproxy.config import Config
    from iocproxy.testing.running import RunningProxy


class ProxyFactory:
    """Starts proxies; `close` stops them all and says what went wrong in them."""

    def __init__(self, certificates: Callable[[], Certificates]) -> None:
        self._certificates = certificates
        self._proxies: list[RunningProxy] = []
        self._threads = set(threading.enumerate())

    def __call__(
        self,
        config: Config | str | os.PathLike[str] | None = None,
        /,
        *,
        upstream: Upstreams | None = None,
        tls: Tls = False,
        clock: Clock | None = None,
        **given: Any,
    ) -> RunningProxy:
        """Start a proxy and return it as soon as it listens.

        `config` is a `Config` or the path of a TOML file. Without it, the keywords are the sections of a
        configuration, with two conveniences: `upstream` is where everything goes (a URL, an `Origin`, or several),
        and `tls` adds a listener with TLS beside the plain one. `clock` is what the limits go by.
        Raises ConfigError, also where an address cannot be bound, and TypeError for keywords beside a `config`.
        """
        # The configuration and the server are imported by the tests that start a proxy, not by the plugin.
        from iocproxy.clock import monotonic  # noqa: PLC0415
        from iocproxy.config import Config, load_config  # noqa: PLC0415
        from iocproxy.testing.running import RunningProxy  # noqa: PLC0415

        if config is None:
            config = Config(**sections(upstream, tls, given, self._certificates))
        elif upstream is not None or tls is not False or given:
            raise TypeError("a complete configuration takes no further sections")
        elif not isinstance(config, Config):
            config = load_config(config)
        proxy = RunningProxy(config, clock=monotonic if clock is None else clock)
        self._proxies.append(proxy)
        return proxy.start()

    def close(self) -> list[str]:
        """Stop every proxy, requests in flight or not. Returns what must fail the test."""
        if not self._proxies:
            return []
        from iocproxy.testing.running import leftover_threads  # noqa: PLC0415

        problems = []
        for proxy in reversed(self._proxies):
            try:
                proxy.stop()
            except TimeoutError as error:
                problems.append(str(error))
            problems += proxy.problems
        self._proxies.clear()
        return problems + leftover_threads(self._threads)


class OriginFactory:
    """Starts origins; `close` stops them all and says what went wrong in them."""

    def __init__(self, certificates: Callable[[], Certificates]) -> None:
        self._certificates = certificates
        self._origins: list[Origin] = []
        self._stack = contextlib.ExitStack()

    def __call__(
        self, *, tls: bool | Certificates | CertificatePair | ssl.SSLContext = False, **options: Any
    ) -> Origin:
        """Start an origin. `tls` True is the fixture's own certificate; `options` are those of `Origin`."""
        context: ssl.SSLContext | None = None
        if isinstance(tls, ssl.SSLContext):
            context = tls
        elif isinstance(tls, Certificates):
            context = tls.server_context()
        elif isinstance(tls, CertificatePair):
            context = self._certificates().server_context(tls)
        elif tls:
            context = self._certificates().server_context()
        origin = self._stack.enter_context(Origin(tls=context, **options))
        self._origins.append(origin)
        return origin

    def close(self) -> list[str]:
        """Stop every origin. Returns what must fail the test."""
        self._stack.close()
        return [failure for origin in self._origins for failure in origin.failures]
