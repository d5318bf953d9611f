"""From a few keywords to the sections of a configuration: what a test leaves out is what does not matter to it.

Unlike in production, nothing is limited and no access log is written unless the test asks for it: a test counts on
what it names, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iocproxy.testing.certificates import CertificatePair, Certificates
from iocproxy.testing.origin import Origin

Upstreams = str | Origin | Sequence[str | Origin]
#: True is the fixture's own certificate; a mapping is a whole ``[listeners.tls]`` table.
Tls = bool | Certificates | CertificatePair | Sequence[CertificatePair] | Mapping[str, Any]

_NO_LIMITS: dict[str, Any] = {
    "connections": {"rate": False, "concurrent": False},
    "handshakes": {"rate": False},
    "requests": {"rate": False},
}


def sections(
    upstream: Upstreams | None, tls: Tls, given: Mapping[str, Any], certificates: Callable[[], Certificates]
) -> dict[str, Any]:
    """The keyword arguments for `Config`. `certificates` is asked only when TLS needs them.

    Raises TypeError where a keyword and a section say the same thing.
    """
    settings = dict(given)
    if upstream is not None:
        _refuse("upstream", "upstreams", settings)
        settings["upstreams"] = {"origin": _group(upstream, certificates)}
    if tls is not False:
        _refuse("tls", "listeners", settings)
    if "listeners" not in settings:
        settings["listeners"] = [{"bind": "127.0.0.1:0"}]
        if tls is not False:
            settings["listeners"].append({"bind": "127.0.0.1:0", "tls": _tls_table(tls, certificates)})
    limits = settings.get("limits", {})
    if isinstance(limits, Mapping):
        settings["limits"] = {**limits, **{key: _over(off, limits.get(key)) for key, off in _NO_LIMITS.items()}}
    settings.setdefault("logging", {"access": False})
    return settings


def _refuse(keyword: str, section: str, settings: Mapping[str, Any]) -> None:
    if section in settings:
        raise TypeError(f"give either {keyword} or {section}, not both")


def _over(defaults: Mapping[str, Any], given: Any) -> Any:
    """`given` completed with the defaults; anything but a mapping is left for the configuration to judge."""
    if given is None:
        return dict(defaults)
    return {**defaults, **given} if isinstance(given, Mapping) else given


def _group(upstream: Upstreams, certificates: Callable[[], Certificates]) -> dict[str, Any]:
    several = [upstream] if isinstance(upstream, str | Origin) else upstream
    servers = [each.url if isinstance(each, Origin) else each for each in several]
    group: dict[str, Any] = {"servers": servers}
    if any(server.startswith("https:") for server in servers):
        group["ca"] = str(certificates().ca)
    return group


def _tls_table(tls: Tls, certificates: Callable[[], Certificates]) -> dict[str, Any]:
    if isinstance(tls, Mapping):
        return dict(tls)
    if isinstance(tls, bool):
        tls = certificates()
    pairs: list[CertificatePair] = []
    if isinstance(tls, Certificates):
        pairs.append(tls.pair)
    elif isinstance(tls, CertificatePair):
        pairs.append(tls)
    else:
        pairs.extend(tls)
    return {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)} for pair in pairs]}
