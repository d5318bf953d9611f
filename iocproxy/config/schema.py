"""The JSON schema of a configuration file, for editors that check and complete TOML while it is written."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from iocproxy.config.describe import is_array, not_yet, section_of, shape_of
from iocproxy.config.model import Config
from iocproxy.config.shapes import UPSTREAM_NAME_PATTERN

JsonSchema = dict[str, Any]


def config_schema() -> JsonSchema:
    """A new JSON schema (draft 2020-12) of the file: pydantic's, in terms of TOML.

    TOML has no null, defaults are written the way the file writes them, and what is not available yet says so in its
    description, and under ``x-not-available-yet`` for programs.
    """
    schema = Config.model_json_schema()
    models = {model.__name__: model for model in sections(Config)}
    definitions = schema.pop("$defs")
    for name, definition in definitions.items():
        _in_toml(definition, models[name])
    _in_toml(schema, Config)
    schema["properties"]["upstreams"].update(
        patternProperties={UPSTREAM_NAME_PATTERN: {"$ref": "#/$defs/Upstream"}},
        additionalProperties=False,
        minProperties=1,
    )
    return {
        **schema,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "iocproxy configuration",
        "description": "A configuration file of iocproxy.",
        "$defs": definitions,
    }


def sections(root: type[BaseModel]) -> list[type[BaseModel]]:
    """`root` and every section below it, each once, in the order of the file."""
    found = [root]
    for field in root.model_fields.values():
        inner = section_of(field.annotation)
        if inner is not None:
            found.extend(section for section in sections(inner) if section not in found)
    return found


def written_default(field: FieldInfo) -> Any:
    """The default as the file writes it; None where leaving the key out is the only way to say it."""
    if field.is_required() or field.default_factory is not None or field.default is None:
        return None
    shape = shape_of(field)
    if is_array(field) or shape is None:
        return list(field.default)
    return shape.write(field.default)


def _in_toml(schema: JsonSchema, model: type[BaseModel]) -> None:
    schema.pop("title", None)
    schema["description"] = " ".join((model.__doc__ or "").split())
    for name, field in model.model_fields.items():
        entry = schema["properties"][name]
        entry.pop("title", None)
        entry.pop("default", None)
        default = written_default(field)
        if default is not None:
            entry["default"] = default
        kinds = [kind for kind in entry.get("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1:
            entry.pop("anyOf")
            entry.update(kinds[0])
        elif kinds:
            entry["anyOf"] = kinds
        mark = not_yet(field)
        if mark is not None:
            entry["description"] = f"{entry['description']} Not available yet: {mark.said}."
