"""The names of `iocproxy.testing`, and what importing the plugin costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import iocproxy.testing


def test_every_public_name_is_there() -> None:
    assert set(iocproxy.testing.__all__) == set(iocproxy.testing._MODULES)
    for name in iocproxy.testing.__all__:
        assert getattr(iocproxy.testing, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = iocproxy.testing.Nothing


def test_importing_the_plugin_imports_nothing_else_of_ours() -> None:
    """It is loaded in everybody's test run; what is heavy comes with the fixture that needs it."""
    code = (
        "import json, sys, pytest; before = set(sys.modules); import iocproxy.testing.plugin;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [name for name in json.loads(run.stdout) if "." not in name or name.startswith("iocproxy")] == [
        "iocproxy",
        "iocproxy.testing",
        "iocproxy.testing.plugin",
    ]
