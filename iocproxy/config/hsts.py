"""`hsts` at a listener: a duration, or a table with more to say; a `Hsts` after validation, None for none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, TypeAlias

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from iocproxy.config import shapes
from iocproxy.config.base import Section
from iocproxy.config.shapes import Flag, JsonSchema
from iocproxy.config.values import Hsts, RefusedError, show_duration

#: What the list of sites that browsers ship asks for (https://hstspreload.org).
_PRELOAD_AGE = 31_536_000


class HstsTable(Section):
    """What browsers are to remember about the host."""

    max_age: Annotated[float, shapes.duration("0s", "3650d")] = Field(
        description="How long they are to use https only; 0 makes them forget.", examples=["365d"]
    )
    include_subdomains: Flag = Field(False, description="The same for every name below the host.", examples=[True])
    preload: Flag = Field(
        False,
        description="Agree to be put on the list that browsers ship. It takes months to get off it.",
        examples=[False],
    )


class _Hsts:
    """Reads either form with `HstsTable`, so that the faults of a table keep their own key paths."""

    said = 'false, a duration, such as "365d", or a table with `max_age`, `include_subdomains` and `preload`'
    section = HstsTable

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source
        table = core_schema.no_info_before_validator_function(_as_table, handler.generate_schema(HstsTable))
        read = core_schema.no_info_after_validator_function(_as_hsts, table)
        return core_schema.no_info_wrap_validator_function(
            _or_off, read, serialization=core_schema.plain_serializer_function_ser_schema(_written)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        table = handler(core)
        age = handler.resolve_ref_schema(table)["properties"]["max_age"]
        return {"anyOf": [{"const": False}, *age["anyOf"], table]}


HstsItem: TypeAlias = Annotated[Hsts, _Hsts()] | None


def _or_off(value: Any, read: core_schema.ValidatorFunctionWrapHandler) -> Hsts | None:
    if value is None or value is False:
        return None
    found: Hsts = read(value)
    return found


def _as_table(value: Any) -> Any:
    if isinstance(value, Hsts):
        return value._asdict()
    if isinstance(value, str | int | float | timedelta) and not isinstance(value, bool):
        return {"max_age": value}
    if not isinstance(value, Mapping | HstsTable):
        raise RefusedError(f"must be {_Hsts.said}")
    return value


def _as_hsts(table: HstsTable) -> Hsts:
    if table.preload and not (table.include_subdomains and table.max_age >= _PRELOAD_AGE):
        raise RefusedError("`preload` needs `include_subdomains = true` and a `max_age` of at least 365d")
    return Hsts(table.max_age, table.include_subdomains, table.preload)


def _written(hsts: Hsts | None) -> str | bool | dict[str, Any]:
    if hsts is None:
        return False
    age = show_duration(hsts.max_age)
    if not (hsts.include_subdomains or hsts.preload):
        return age
    return {"max_age": age, "include_subdomains": hsts.include_subdomains, "preload": hsts.preload}
