"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from iocproxy.config.faults import problems_of, raise_faults


class Section(BaseModel):
    """A frozen table of settings. Making one from values that cannot be used raises `iocproxy.errors.ConfigError`.

    `model_dump()` gives the settings as a file holds them ("10s", "8KiB"), None for what is left out; the model takes
    that back as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            problems = problems_of(error, type(self), settings)
        else:
            return
        raise_faults(problems)

    # pydantic asks for this mark before it takes an `__init__` for one with work of its own, to be called for nested
    # tables as well. Ours only translates: nested tables must report to the table around them.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
