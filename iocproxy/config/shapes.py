"""The kinds of value a setting may have: how each is read, described to a person, and described to an editor.

A `Shape` stands in `Annotated[...]` beside the type of the value after validation and replaces pydantic's own reading
of that type, so that nothing is coerced behind the back of whoever wrote the file and every refusal speaks our words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from iocproxy.config import limit_values, values
from iocproxy.config.limit_values import Key, Rate, Rates
from iocproxy.config.redis_url import RedisUrl, read_storage, write_storage
from iocproxy.config.source import base_directory
from iocproxy.config.values import Bind, Network, RefusedError, Server

JsonSchema = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """One kind of value.

    `said` completes "this must be …"; `read` raises `RefusedError`; `schema` is JSON schema for what a file may hold;
    `write` gives the TOML value that reads back as the same.
    """

    said: str
    read: Callable[[Any], Any]
    schema: JsonSchema = field(hash=False)
    write: Callable[[Any], Any] = lambda value: value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler  # the shape alone says how the value is read
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.plain_serializer_function_ser_schema(self.write)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        del core, handler
        return dict(self.schema)

    def _read(self, value: Any) -> Any:
        try:
            return self.read(value)
        except RefusedError as refused:
            raise RefusedError(f"{refused}; must be {self.said}" if str(refused) else f"must be {self.said}") from None

    def or_off(self) -> Shape:
        """The same, or false (None in Python) for no limit at all."""

        def read(value: Any) -> Any:
            return None if value is None or value is False else self.read(value)

        def write(value: Any) -> Any:
            return False if value is None else self.write(value)

        return Shape(f"{self.said}, or false for none", read, {"anyOf": [self.schema, {"const": False}]}, write)

    def or_unbounded(self, unbounded: int) -> Shape:
        """The same, or false for no bound: a number that needs no check of its own where it is compared."""

        def read(value: Any) -> Any:
            return unbounded if value is False or value == unbounded else self.read(value)

        def write(value: Any) -> Any:
            return False if value == unbounded else self.write(value)

        return Shape(f"{self.said}, or false for none", read, {"anyOf": [self.schema, {"const": False}]}, write)


@dataclass(frozen=True)
class NotYet:
    """Marks a setting that is part of the format but not available in this version: only `only` is accepted."""

    only: Any
    said: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {**handler(core), "x-not-available-yet": self.said}

    def _check(self, value: Any, read: core_schema.ValidatorFunctionWrapHandler) -> Any:
        # A whole table is refused unread: what is wrong inside it does not matter yet.
        if not isinstance(value, Mapping | BaseModel) and (found := read(value)) == self.only:
            return found
        raise RefusedError(f"{self.said} is not available yet")


# --- shapes ---------------------------------------------------------------------------------------------------


def _between(read: Callable[[Any], Any], low: float, high: float) -> Callable[[Any], Any]:
    def bounded(value: Any) -> Any:
        number = read(value)
        if not low <= number <= high:
            raise RefusedError
        return number

    return bounded


def whole(low: int, high: int) -> Shape:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Shape(f"a whole number from {low} to {high}", _between(values.read_whole, low, high), schema)


def duration(low: str, high: str) -> Shape:
    bounds = values.read_duration(low), values.read_duration(high)
    return Shape(
        f'a duration from {low} to {high}, such as "5s", or a number of seconds',
        _between(values.read_duration, *bounds),
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{values.DURATION_PATTERN}$"},
                {"type": "number", "minimum": bounds[0], "maximum": bounds[1]},
            ]
        },
        values.show_duration,
    )


def size(low: str, high: str) -> Shape:
    bounds = values.read_size(low), values.read_size(high)
    return Shape(
        f'a size from {low} to {high}, such as "8KiB", or a number of bytes',
        _between(values.read_size, *bounds),
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{values.SIZE_PATTERN}$"},
                {"type": "integer", "minimum": bounds[0], "maximum": bounds[1]},
            ]
        },
        values.show_size,
    )


def choice(*allowed: str) -> Shape:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise RefusedError
        return value

    *first, last = (f'"{word}"' for word in allowed)
    return Shape(f"{', '.join(first)} or {last}", read, {"enum": list(allowed)})


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise RefusedError
    return value


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise RefusedError
    return value


def _read_host_name(value: Any) -> str:
    if not isinstance(value, str):
        raise RefusedError
    return values.read_host(value)


def read_path(value: Any) -> Path:
    """An absolute path: a relative one counts from the configuration file, in Python from the current directory."""
    if not isinstance(value, str | os.PathLike):
        raise RefusedError
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise RefusedError
    return base_directory() / text


#: What a page of the operator's own may be: the type it is sent with goes by its name.
PAGE_SUFFIXES = (".html", ".json", ".txt")


def _read_page_path(value: Any) -> Path:
    path = read_path(value)
    if path.suffix not in PAGE_SUFFIXES:
        raise RefusedError
    return path


def _read_workers(value: Any) -> int | str:
    return "auto" if value == "auto" else _between(values.read_whole, 1, 256)(value)


def redis_prefix() -> Shape:
    return Shape(
        "a text of 1 to 64 printable ASCII characters without blanks and braces",
        limit_values.read_prefix,
        {"type": "string", "pattern": "^[!-z|~]{1,64}$"},
    )


_RATE_SCHEMA: JsonSchema = {"type": "string", "pattern": f"^[0-9]+/{values.DURATION_PATTERN}$"}

Flag: TypeAlias = Annotated[bool, Shape("true or false", _read_flag, {"type": "boolean"})]
Text: TypeAlias = Annotated[str, Shape("a text that is not empty", _read_text, {"type": "string", "minLength": 1})]
FilePath: TypeAlias = Annotated[Path, Shape("a file's path", read_path, {"type": "string", "minLength": 1}, str)]
RatesOrOff: TypeAlias = Annotated[
    Rates,
    Shape(
        'a rate "COUNT/DURATION", such as "300/10s", an array of them, or false for none',
        limit_values.read_rates,
        {
            "anyOf": [
                _RATE_SCHEMA,
                {"type": "array", "items": _RATE_SCHEMA, "minItems": 1, "maxItems": limit_values.MAX_WINDOWS},
                {"const": False},
            ]
        },
        limit_values.show_rates,
    ),
]
NeededRates: TypeAlias = Annotated[
    Rates,
    Shape(
        'a rate "COUNT/DURATION", such as "300/10s", or an array of them',
        limit_values.read_needed_rates,
        {
            "anyOf": [
                _RATE_SCHEMA,
                {"type": "array", "items": _RATE_SCHEMA, "minItems": 1, "maxItems": limit_values.MAX_WINDOWS},
            ]
        },
        limit_values.show_rates,
    ),
]
LimitKey: TypeAlias = Annotated[
    Key,
    Shape(
        '"address", "certificate", "everyone", "host", "method", "route", "header:NAME", "cookie:NAME", "query:NAME" '
        'or "path:N", or an array of them',
        limit_values.read_key,
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
        limit_values.show_key,
    ),
]
LimitName: TypeAlias = Annotated[
    str,
    Shape(
        "a name of 1 to 64 letters, digits, dots, dashes and underscores, a letter first",
        limit_values.read_limit_name,
        {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_.-]{0,63}$"},
    ),
]
Method: TypeAlias = Annotated[
    str,
    Shape('a method, such as "POST"', limit_values.read_method, {"type": "string", "pattern": "^[A-Z][A-Z-]{0,31}$"}),
]
AnswerStatus: TypeAlias = Annotated[
    str,
    Shape(
        'a status from 200 to 599, or "2xx" to "5xx"',
        limit_values.read_status,
        {"anyOf": [{"type": "integer", "minimum": 200, "maximum": 599}, {"type": "string"}]},
        limit_values.show_status,
    ),
]
CountOrOff: TypeAlias = Annotated[int | None, whole(1, 1_000_000).or_off()]
Timeout: TypeAlias = Annotated[float, duration("1ms", "7d")]
BindAddress: TypeAlias = Annotated[
    Bind,
    Shape(
        'an address "HOST:PORT", such as "127.0.0.1:80", "0.0.0.0:80" (all of IPv4) or "[::]:80" (IPv4 and IPv6)',
        values.read_bind,
        {"type": "string", "pattern": "^.+:[0-9]+$"},
        str,
    ),
]
ServerUrl: TypeAlias = Annotated[
    Server,
    Shape(
        'a URL "http://HOST[:PORT]" or "https://HOST[:PORT]"',
        values.read_server_url,
        {"type": "string", "pattern": "^https?://[^/?#@]+/?$"},
        str,
    ),
]
IpNetwork: TypeAlias = Annotated[
    Network,
    Shape('an IP network, such as "10.0.0.0/8" or "2001:db8::/32"', values.read_network, {"type": "string"}, str),
]
RouteHost: TypeAlias = Annotated[
    str,
    Shape('a host name, such as "example.com" or "*.example.com"', values.read_route_host, {"type": "string"}),
]
TlsHost: TypeAlias = Annotated[
    str,
    Shape('a host name, such as "example.com" or "*.example.com"', values.read_tls_host, {"type": "string"}),
]
TlsVersion: TypeAlias = Annotated[str, choice("1.2", "1.3")]
ClientAuth: TypeAlias = Annotated[str, choice("none", "optional", "required")]
FieldName: TypeAlias = Annotated[
    str,
    Shape(
        'the name of a header field, such as "X-Client-Subject"',
        values.read_field_name,
        {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9-]{0,63}$"},
    ),
]
HostName: TypeAlias = Annotated[
    str,
    Shape('a host name or an IP address, such as "example.com"', _read_host_name, {"type": "string", "minLength": 1}),
]
RoutePath: TypeAlias = Annotated[
    str,
    Shape('a path prefix, such as "/api/"', values.read_route_path, {"type": "string", "pattern": "^/[^?#]*$"}),
]
UpstreamHost: TypeAlias = Annotated[
    str,
    Shape(
        '"keep", "server", or a host with or without a port, such as "internal.example.com"',
        values.read_upstream_host,
        {"type": "string", "minLength": 1},
    ),
]
ErrorStatus: TypeAlias = Annotated[
    str,
    Shape(
        'a status from 400 to 599, "4xx" or "5xx"',
        values.read_error_status,
        {"type": "string", "pattern": "^[45]([0-9][0-9]|xx)$"},
    ),
]
PageFile: TypeAlias = Annotated[
    Path,
    Shape(
        f"the path of a file that ends in {', '.join(PAGE_SUFFIXES[:-1])} or {PAGE_SUFFIXES[-1]}",
        _read_page_path,
        {"type": "string", "pattern": f"({'|'.join(PAGE_SUFFIXES)})$".replace(".", r"\.")},
        str,
    ),
]
UPSTREAM_NAME_PATTERN = "^[A-Za-z0-9_.-]{1,64}$"
UpstreamName: TypeAlias = Annotated[
    str,
    Shape(
        "a name of 1 to 64 letters, digits, dots, dashes and underscores",
        values.read_upstream_name,
        {"type": "string", "pattern": UPSTREAM_NAME_PATTERN},
    ),
]
AlpnProtocol: TypeAlias = Annotated[
    str,
    Shape(
        " or ".join(f'"{name}"' for name in values.ALPN_PROTOCOLS),
        values.read_alpn,
        {"enum": list(values.ALPN_PROTOCOLS)},
    ),
]
HttpsRedirect: TypeAlias = Annotated[
    int | None,
    Shape(
        "true, false, or the port of https if it is not 443",
        values.read_https_redirect,
        {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 65535}]},
        lambda port: False if port is None else True if port == 443 else port,
    ),
]
ClassName: TypeAlias = Annotated[
    str,
    Shape('a class as "package.module:Class"', values.read_class_name, {"type": "string", "pattern": "^[^:]+:[^:]+$"}),
]
Workers: TypeAlias = Annotated[
    int | str,
    Shape(
        'a whole number from 1 to 256, or "auto"',
        _read_workers,
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 256}, {"const": "auto"}]},
    ),
]
Storage: TypeAlias = Annotated[
    str | RedisUrl,
    Shape(
        '"memory", or "redis://[USER:PASSWORD@]HOST[:PORT][/DB]", with TLS "rediss://…"',
        read_storage,
        {"type": "string", "pattern": "^(memory|rediss?://[^?#]+)$"},
        write_storage,
    ),
]


#: More octets or requests than there can be: the bound is off.
UNBOUNDED = 2**62

MaxRequestLine: TypeAlias = Annotated[int, size("64B", "1MiB")]
MaxHead: TypeAlias = Annotated[int, size("256B", "1MiB")]
MaxFields: TypeAlias = Annotated[int, whole(1, 10_000)]
MaxBody: TypeAlias = Annotated[int, size("0B", "1048576GiB").or_unbounded(UNBOUNDED)]
MaxRequests: TypeAlias = Annotated[int, whole(1, 1_000_000_000).or_unbounded(UNBOUNDED)]
BodyRate: TypeAlias = Annotated[int, size("1B", "1GiB").or_unbounded(0)]
Grace: TypeAlias = Annotated[float, duration("0s", "1h")]


# --- tables of plain values -------------------------------------------------------------------------------------


class _TableOf(Shape):
    """Says what a table of plain values is; its keys and values are read by shapes of their own."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(source)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {**handler(core), "additionalProperties": False}


def _as_read(value: Any) -> Any:
    return value


ErrorFiles: TypeAlias = Annotated[
    dict[ErrorStatus, PageFile],
    _TableOf("a table of statuses from 400 to 599, 4xx or 5xx, each with a file's path", _as_read, {}),
]


# --- arrays ---------------------------------------------------------------------------------------------------

T = TypeVar("T")


@dataclass(frozen=True)
class _Array:
    """A list or a tuple; nothing else that could be walked over passes for one."""

    least: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {**handler(core), **({"minItems": self.least} if self.least else {})}

    def _check(self, value: Any) -> Any:
        if not isinstance(value, list | tuple) or isinstance(value, Bind | Rate | Rates | Server):
            raise RefusedError("must be an array")
        if len(value) < self.least:
            raise RefusedError("must have at least one")
        return value


Items: TypeAlias = Annotated[tuple[T, ...], _Array(0)]
SomeItems: TypeAlias = Annotated[tuple[T, ...], _Array(1)]
