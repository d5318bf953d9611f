"""What a listener does of itself to the requests that come in there, beside taking TLS off them."""

from __future__ import annotations

from dataclasses import dataclass

from iocproxy.config import Listener
from iocproxy.exchange.ports import Exchanges
from iocproxy.exchange.redirect import HttpsRedirect
from iocproxy.exchange.service import Service


@dataclass(frozen=True, slots=True)
class Conduct:
    """`exchanges` is what the client connections of the listener work with; `strict` goes into every response: the
    Strict-Transport-Security line, b"" for none."""

    exchanges: Exchanges
    strict: bytes = b""

    @classmethod
    def of(cls, listener: Listener, service: Service) -> Conduct:
        if listener.https_redirect is not None:
            return cls(HttpsRedirect(service, listener.https_redirect))
        hsts = None if listener.tls is None else listener.tls.hsts
        if hsts is None:
            return cls(service)
        return cls(service, b"Strict-Transport-Security: %b\r\n" % hsts.value.encode("ascii"))
