"""What the models say about themselves: kinds of values and the section behind a key path."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from iocproxy.config.lines import Loc
from iocproxy.config.shapes import NotYet, Shape

Model = type[BaseModel]


def section_of(annotation: Any) -> Model | None:
    """The section that an annotation holds, alone, in an array or by name; None for a plain value."""
    return next((part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)), None)


def shape_of(field: FieldInfo) -> Shape | None:
    """The shape of a plain value, or of the elements of an array of plain values."""
    return next((part for part in (*field.metadata, *_parts(field.annotation)) if isinstance(part, Shape)), None)


def not_yet(field: FieldInfo) -> NotYet | None:
    return next((mark for mark in field.metadata if isinstance(mark, NotYet)), None)


def is_array(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def is_named(field: FieldInfo) -> bool:
    """Whether the field holds tables under names of the user's choice."""
    return get_origin(field.annotation) is dict and section_of(field.annotation) is not None


def said(field: FieldInfo) -> str:
    """What the value must be, as a phrase: "a duration from …", "an array, each a file's path"."""
    shape, section = shape_of(field), section_of(field.annotation)
    if is_array(field):
        element = next((mark.said for mark in _parts(field.annotation) if hasattr(mark, "said")), "a table")
        return f"an array, each {element}"
    if is_named(field):
        return "a table of tables, each under its name"
    if section is not None or shape is None:
        return next((mark.said for mark in _parts(field.annotation) if hasattr(mark, "said")), "a table")
    return shape.said


def section_at(root: Model, loc: Loc) -> Model:
    """The section whose keys stand directly below `loc`."""
    section = root
    parts = iter(loc)
    for part in parts:
        if isinstance(part, int):
            continue
        field = section.model_fields[part]
        inner = section_of(field.annotation)
        if inner is None:
            raise KeyError(loc)
        section = inner
        if is_named(field):
            next(parts, None)
    return section


def field_at(root: Model, loc: Loc) -> FieldInfo:
    """The field that `loc` ends with."""
    return section_at(root, loc[:-1]).model_fields[str(loc[-1])]


def _parts(annotation: Any) -> Iterator[Any]:
    """Everything an annotation is made of: types, and the marks within Annotated."""
    origin = get_origin(annotation)
    if origin in {Annotated, tuple, dict, Union, types.UnionType}:
        for part in get_args(annotation):
            yield from _parts(part)
        return
    yield annotation
    section = getattr(annotation, "section", None)
    if section is not None:
        yield section
