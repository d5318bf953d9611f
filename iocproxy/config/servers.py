"""One entry of an upstream's `servers`: a URL, or a table with a URL and a weight; a `Server` after validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from iocproxy.config import shapes
from iocproxy.config.base import Section
from iocproxy.config.shapes import JsonSchema, ServerUrl
from iocproxy.config.values import RefusedError, Server


class ServerTable(Section):
    """A server with its weight."""

    url: ServerUrl = Field(description="The server's URL, without a path.", examples=["https://10.0.0.6:9443"])
    weight: Annotated[int, shapes.whole(1, 1000)] = Field(
        1, description="How often the server is picked, compared with the others of its upstream.", examples=[2]
    )


class _Server:
    """Reads either form with `ServerTable`, so that the faults of a table keep their own key paths."""

    said = "a URL, or a table with `url` and `weight`"
    section = ServerTable

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source
        table = core_schema.no_info_before_validator_function(_as_table, handler.generate_schema(ServerTable))
        return core_schema.no_info_after_validator_function(
            _as_server,
            table,
            serialization=core_schema.plain_serializer_function_ser_schema(_written),
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        table = handler(core)
        url = handler.resolve_ref_schema(table)["properties"]["url"]
        return {"anyOf": [{"type": "string", "pattern": url["pattern"]}, table]}


ServerItem: TypeAlias = Annotated[Server, _Server()]


def _as_table(value: Any) -> Any:
    if isinstance(value, Server):
        return {"url": value.url, "weight": value.weight}
    if isinstance(value, str):
        return {"url": value}
    if not isinstance(value, Mapping | ServerTable):
        raise RefusedError(f"must be {_Server.said}")
    return value


def _as_server(table: ServerTable) -> Server:
    return table.url._replace(weight=table.weight)


def _written(server: Server) -> str | dict[str, Any]:
    return server.url if server.weight == 1 else {"url": server.url, "weight": server.weight}
