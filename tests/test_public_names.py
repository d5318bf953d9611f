"""What `import iocproxy` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import iocproxy

ROOT = Path(__file__).resolve().parent.parent


def _run(code: str) -> str:
    """The last line printed by a fresh interpreter that starts in the repository."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_public_names_are_these() -> None:
    assert iocproxy.__all__ == [
        "Client",
        "ClientCertificate",
        "Config",
        "ConfigError",
        "Fault",
        "Headers",
        "IocproxyError",
        "Proxy",
        "ProxyError",
        "Record",
        "Request",
        "Response",
        "__version__",
        "load_config",
    ]


@pytest.mark.parametrize("name", iocproxy.__all__)
def test_every_public_name_is_there_and_is_listed(name: str) -> None:
    assert getattr(iocproxy, name) is not None
    assert name in dir(iocproxy)


def test_a_name_is_the_same_object_as_in_its_home() -> None:
    from iocproxy.message import Response
    from iocproxy.server import Proxy

    assert iocproxy.Proxy is Proxy
    assert iocproxy.Response is Response
    assert iocproxy.Proxy is iocproxy.Proxy


def test_a_star_import_brings_exactly_the_public_names() -> None:
    code = "from iocproxy import *; print(sorted(n for n in dir() if n == '__version__' or not n.startswith('_')))"
    assert _run(code) == str(sorted(iocproxy.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'iocproxy' has no attribute 'Prxy'"):
        iocproxy.Prxy  # noqa: B018
    with pytest.raises(ImportError):
        from iocproxy import Prxy  # noqa: F401


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    heavy = "asyncio ssl pydantic structlog httptools tomli cryptography typer rich logging"
    code = (
        "import sys; before = set(sys.modules); import iocproxy; new = set(sys.modules) - before;"
        f"print(sorted(n for n in new if n.startswith('iocproxy.') or n in {heavy.split()!r}))"
    )
    assert _run(code) == "[]"


def test_the_vocabulary_is_there_without_the_server() -> None:
    code = (
        "import sys; from iocproxy import Response, ConfigError;"
        "print(sorted(n for n in sys.modules if n in {'iocproxy.server', 'iocproxy.config', 'pydantic', 'asyncio'}))"
    )
    assert _run(code) == "[]"


def test_the_version_is_in_one_place() -> None:
    assert iocproxy.__version__.count(".") == 2
    assert 'path = "iocproxy/__init__.py"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_package_is_typed() -> None:
    assert (ROOT / "iocproxy" / "py.typed").is_file()
