"""Reading single values: from what stands in a file, or is given in Python, to what the proxy works with.

Each reader takes anything and returns the value, or raises `RefusedError` with the reason, "" where the kind of value
says enough. Readers accept their own result, so that a compiled configuration can be read again. Each `show_*` is
the inverse: the text that reads back as the same value.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RefusedError(ValueError):
    """A value cannot be used; the text says why, or what may stand there instead."""


class Bind(NamedTuple):
    """Where a listener listens. `host` carries no brackets; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


class Hsts(NamedTuple):
    """What Strict-Transport-Security says (RFC 6797 section 6.1); `max_age` in seconds."""

    max_age: float
    include_subdomains: bool = False
    preload: bool = False

    @property
    def value(self) -> str:
        """The field's value."""
        said = f"max-age={int(self.max_age)}"
        if self.include_subdomains:
            said += "; includeSubDomains"
        return f"{said}; preload" if self.preload else said


class Server(NamedTuple):
    """One server of an upstream. `scheme` is http or https, `host` carries no brackets."""

    scheme: str
    host: str
    port: int
    weight: int = 1

    @property
    def url(self) -> str:
        return f"{self.scheme}://{join_host_port(self.host, self.port)}"

    @property
    def authority(self) -> str:
        """What it is called in a Host field: no port that is the scheme's default (RFC 9110 section 4.2.3), and no zone
        of an IPv6 address, which means something on this machine only (RFC 6874 section 1)."""
        host = self.host.partition("%")[0]
        default = 80 if self.scheme == "http" else 443
        return join_host_port(host, self.port) if self.port != default else f"[{host}]" if ":" in host else host

    def __str__(self) -> str:
        return self.url


def join_host_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- numbers with units ---------------------------------------------------------------------------------------

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

DURATION_PATTERN = r"[0-9]+(\.[0-9]+)?(ms|s|m|h|d)"
SIZE_PATTERN = r"[0-9]+(B|KiB|MiB|GiB)"

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,40})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")


def read_duration(value: Any) -> float:
    """Seconds, from "5s" (ms, s, m, h, d), a number of seconds, or a timedelta; never negative, always finite."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise RefusedError
        return float(Decimal(match[1]) * _SECONDS[match[2]])
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            raise RefusedError from None
    else:
        raise RefusedError
    if not math.isfinite(seconds) or seconds < 0:
        raise RefusedError
    return seconds


def show_duration(seconds: float) -> str:
    """The shortest usual spelling: "500ms", "75s", "10m", "24h", "14d"."""
    if seconds >= 172_800 and seconds % 86_400 == 0:
        return f"{int(seconds // 86_400)}d"
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{int(seconds // 3600)}h"
    if seconds >= 120 and seconds % 60 == 0:
        return f"{int(seconds // 60)}m"
    exact = Decimal(repr(float(seconds)))
    thousandths = exact * 1000
    if 0 < seconds < 1 and thousandths == thousandths.to_integral_value():
        return f"{int(thousandths)}ms"
    if exact == exact.to_integral_value():
        return f"{int(exact)}s"
    return f"{exact:f}s"


def read_size(value: Any) -> int:
    """Bytes, from a whole number or "8KiB" (B, KiB, MiB, GiB)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise RefusedError
        return int(match[1]) * _BYTES[match[2]]
    return read_whole(value)


def show_size(size: int) -> str:
    """The largest unit that divides it: "8KiB", "1MiB", "100B"."""
    unit = max((unit for unit in _BYTES if size and size % _BYTES[unit] == 0), key=_BYTES.__getitem__, default="B")
    return f"{size // _BYTES[unit]}{unit}"


def read_whole(value: Any) -> int:
    """A whole number; neither a boolean nor a float with a whole value passes for one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RefusedError
    return value


# --- names and addresses --------------------------------------------------------------------------------------

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def read_host(text: str) -> str:
    """An IPv4 address, an IPv6 address without brackets, or an ASCII name; lower case.

    Names beyond ASCII are refused rather than converted: IDNA 2003 and 2008 differ, the person who writes the file
    knows which one is meant and writes the ``xn--`` form.
    """
    if not text:
        raise RefusedError("no host in it")
    if not text.isascii():
        raise RefusedError("a name beyond ASCII is written in its xn-- form")
    if ":" in text or text.replace(".", "").isdigit():
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            raise RefusedError("not an IP address") from None
    host = text.lower()
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise RefusedError("not a host name")
    return host


def split_host_port(text: str) -> tuple[str, str]:
    """(host without brackets, what follows the colon). Raises `RefusedError` unless both are there."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise RefusedError("no port in it")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise RefusedError("brackets are for IPv6 addresses")
    elif ":" in host:
        raise RefusedError("an IPv6 address stands in brackets")
    return host, port


def read_port(text: str, lowest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and lowest <= int(text) <= 65535):
        raise RefusedError(f"the port must be {lowest} to 65535")
    return int(text)


def read_bind(value: Any) -> Bind:
    """A `Bind`, from "host:port"."""
    if isinstance(value, Bind):
        value = str(value)
    if not isinstance(value, str):
        raise RefusedError
    host, port = split_host_port(value)
    if host == "*":
        raise RefusedError('"*" could mean IPv4 or both')
    return Bind(read_host(host), read_port(port, 0))


def read_server_url(value: Any) -> Server:
    """A `Server` of weight 1, from "http://host:port" or "https://host:port"; ports default to 80 and 443."""
    if not isinstance(value, str):
        raise RefusedError
    if not value.isascii() or any(char <= " " or char in "\x7f\\" for char in value):
        raise RefusedError("a blank, a control character, a backslash or a character beyond ASCII in it")
    try:
        parts = urlsplit(value)
    except ValueError:
        raise RefusedError("not a URL") from None
    if parts.scheme not in {"http", "https"} or "://" not in value:
        raise RefusedError("it must start with http:// or https://")
    if "@" in parts.netloc:
        raise RefusedError("a user name or password in it")
    if parts.path not in {"", "/"}:
        raise RefusedError("a path in it")
    if "?" in value or "#" in value:
        raise RefusedError("a query or fragment in it")
    bare = parts.netloc if ":" in parts.netloc.rpartition("]")[2] else f"{parts.netloc}:"
    host, port = split_host_port(bare)
    default = 80 if parts.scheme == "http" else 443
    number = default if bare != parts.netloc else read_port(port, 1)
    return Server(parts.scheme, read_host(host), number)


def read_network(value: Any) -> Network:
    """An IP network; a single address is a network of one."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return ipaddress.ip_network(value)
    if not isinstance(value, str):
        raise RefusedError
    try:
        loose = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise RefusedError from None
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise RefusedError(f"bits set beyond the prefix, did you mean {str(loose)!r}?") from None


def read_route_host(value: Any) -> str:
    """A host name to match, lower case: exact, or with a leading ``*.`` for every name below it."""
    if not isinstance(value, str):
        raise RefusedError
    if value == "*":
        raise RefusedError("leave `host` out to match every host")
    if value.startswith("[") and value.endswith("]"):
        return f"[{read_host(value[1:-1])}]"
    if ":" in value:
        raise RefusedError("a host is matched without its port")
    if value.startswith("*."):
        name = read_host(value[2:])
        if name.replace(".", "").isdigit():
            raise RefusedError("there is nothing below an IP address")
        return f"*.{name}"
    if "*" in value:
        raise RefusedError('a wildcard stands in front only: "*.example.com"')
    return read_host(value)


def read_tls_host(value: Any) -> str:
    """As `read_route_host`, of a name: a client never asks for an address (RFC 6066 section 3)."""
    host = read_route_host(value)
    if host.startswith("[") or host.replace(".", "").isdigit():
        raise RefusedError("TLS clients ask for names, never for addresses")
    return host


_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")

#: What the proxy itself reads or writes, and what requests cannot do without.
_TAKEN_FIELDS = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("http2-settings", "proxy-authenticate", "proxy-authorization", "host", "content-length", "expect", "via"),
        *("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"),
        *("x-forwarded-server", "x-real-ip", "x-request-id", "max-forwards", "date", "content-type"),
        *("content-encoding", "accept", "cookie", "client-cert", "client-cert-chain"),
    }
)


def read_field_name(value: Any) -> str:
    """The name of a field of the operator's own: letters, digits and hyphens."""
    if not isinstance(value, str) or not _FIELD_NAME.fullmatch(value):
        raise RefusedError
    if value.lower() in _TAKEN_FIELDS:
        raise RefusedError("a field that has a meaning of its own")
    return value


def read_route_path(value: Any) -> str:
    """A path prefix as it is on the wire: percent-encoded, without query or fragment."""
    if not isinstance(value, str):
        raise RefusedError
    if not value.startswith("/"):
        raise RefusedError('it must start with "/"')
    if "?" in value or "#" in value:
        raise RefusedError("a path has no query or fragment")
    if any(not "!" <= char <= "~" for char in value):
        raise RefusedError("blanks, control characters and characters beyond ASCII are percent-encoded")
    return value


def read_upstream_host(value: Any) -> str:
    """ "keep", "server", or an authority: a host, with a port where it is not the scheme's default."""
    if not isinstance(value, str):
        raise RefusedError
    if value.lower() in {"keep", "server"}:
        if not value.islower():
            raise RefusedError
        return value
    if "%" in value:
        raise RefusedError("a zone in it")
    if "/" in value:
        raise RefusedError("a slash in it")
    name = value.rpartition("]")[2] if value.startswith("[") else value
    if ":" not in name:
        if value.startswith("["):
            split_host_port(f"{value}:0")  # says what is wrong with the brackets
            return f"[{read_host(value[1:-1])}]"
        return read_host(value)
    host, port = split_host_port(value)
    return join_host_port(read_host(host), read_port(port, 1))


_ERROR_STATUS = re.compile(r"[45](?:[0-9][0-9]|xx)")


def read_error_status(value: Any) -> str:
    """ "404" or "5xx"; in Python 404 as well."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _ERROR_STATUS.fullmatch(text):
        raise RefusedError
    return text


_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: What can be spoken above TLS, by its name in ALPN; `iocproxy.tls` says the same.
ALPN_PROTOCOLS = ("http/1.1", "http/1.0")


def read_alpn(value: Any) -> str:
    if value in {"h2", "h3"}:
        raise RefusedError("HTTP/2 and HTTP/3 are not available yet")
    if value not in ALPN_PROTOCOLS:
        raise RefusedError
    return str(value)


def read_https_redirect(value: Any) -> int | None:
    """The port that clients are sent to: true is 443, false (in Python None) none."""
    if value is None or value is False:
        return None
    if value is True:
        return 443
    port = read_whole(value)
    if not 1 <= port <= 65535:
        raise RefusedError("the port must be 1 to 65535")
    return port


_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def read_upstream_name(value: Any) -> str:
    if not isinstance(value, str) or not _UPSTREAM_NAME.fullmatch(value):
        raise RefusedError
    return value


def read_class_name(value: Any) -> str:
    """ "package.module:Class"; whether it can be imported is seen when the middleware chain is made."""
    if not isinstance(value, str) or not _CLASS.fullmatch(value):
        raise RefusedError
    return value


# --- showing what stands there --------------------------------------------------------------------------------

#: The last @ ends them: a password may hold what it should not, and is no less one.
_CREDENTIALS = re.compile(r"//.*@", re.DOTALL)
#: What has no @ may be a password all the same, where the host was forgotten.
_REDIS = re.compile(r"(rediss?://)(?!…@|[A-Za-z0-9_.-]*(?:/|:[0-9]*(?:/|$)|$)|\[).+", re.DOTALL)
_ESCAPES = {char: f"\\u{char:04x}" for char in (*range(0x20), 0x7F)} | {
    ord("\\"): "\\\\",
    ord('"'): '\\"',
    ord("\n"): "\\n",
    ord("\t"): "\\t",
}


def show(value: Any, width: int = 60) -> str:
    """A value as TOML writes it, for a message: on one line, shortened, a URL's credentials left out."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = _REDIS.sub(r"\1…", _CREDENTIALS.sub("//…@", value))
        if len(text) > width:
            text = f"{text[:width]}…"
        return f'"{text.translate(_ESCAPES)}"'
    if isinstance(value, int | float):
        return "a very large number" if isinstance(value, int) and abs(value) >= 10**width else repr(value)
    if isinstance(value, Mapping):
        return "a table" if value else "an empty table"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return "an array" if value else "an empty array"
    text = " ".join(str(value).split())
    return text if len(text) <= width else f"{text[:width]}…"
