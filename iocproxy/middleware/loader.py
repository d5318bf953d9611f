"""User middleware: from "package.module:Class" and options to an instance, with every way to fail told as a fault."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from iocproxy.errors import ConfigError, Fault
from iocproxy.middleware.chain import EVENTS


def load_middleware(use: str, options: Mapping[str, Any], *, path: str) -> object:
    """Import the class and make one instance with `options` as keyword arguments.

    `path` is the key path of the entry (``middleware[0]``). Raises `ConfigError` with one fault. Importing runs the
    module's own code; whatever it raises is reported, not passed on.
    """
    module_name, _, class_name = use.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module may fail to import in any way
        raise _fault(f"{path}.use", f"{use!r} cannot be imported: {_said(error)}", "an importable module") from error
    found: Any = module
    for part in class_name.split("."):
        found = getattr(found, part, None)
    if not inspect.isclass(found):
        raise _fault(f"{path}.use", f"{module_name} has no class {class_name!r}", "a class in that module")
    hooks = [event for event in EVENTS if callable(getattr(found, event, None))]
    if not hooks:
        raise _fault(f"{path}.use", f"{use!r} takes part in nothing", f"a class with any of {', '.join(EVENTS)}")
    if inspect.iscoroutinefunction(getattr(found, "on_disconnect", None)):
        raise _fault(f"{path}.use", f"{use!r} has an async on_disconnect", "a plain method for that event")
    try:
        return found(**options)
    except Exception as error:  # a constructor may fail in any way
        raise _fault(
            f"{path}.options", f"{use!r} does not take these options: {_said(error)}", "what the class accepts"
        ) from error


def _fault(path: str, found: str, allowed: str) -> ConfigError:
    return ConfigError([Fault(path, found, f"allowed: {allowed}")])


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
