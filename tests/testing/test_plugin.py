"""The plugin in an outside project: a directory and a pytest of its own, and nothing of ours but an import."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from iocproxy.testing import Certificates

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^<!-- (test_\w+\.py) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = EXAMPLE.findall((ROOT / "docs" / "testing.md").read_text(encoding="utf-8"))

INSTALLED = any(point.value == "iocproxy.testing.plugin" for point in entry_points(group="pytest11"))


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # urllib goes by these
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester


def run(project: pytest.Pytester, *options: str, asyncio: bool = False) -> pytest.RunResult:
    own = () if INSTALLED else ("-p", "iocproxy.testing.plugin")
    other = ("-o", "asyncio_default_fixture_loop_scope=function") if asyncio else ("-p", "no:asyncio")
    return project.runpytest_subprocess(*own, *other, "-p", "no:cacheprovider", "-W", "error", *options)


def test_the_examples_of_the_documentation_pass(project: pytest.Pytester) -> None:
    assert len(EXAMPLES) == 7
    for name, text in EXAMPLES:
        (project.path / name).write_text(text, encoding="utf-8")
    run(project, asyncio=True).assert_outcomes(passed=sum(text.count("def test_") for _, text in EXAMPLES))


def test_it_needs_no_other_plugin(project: pytest.Pytester) -> None:
    (project.path / "test_shop.py").write_text(dict(EXAMPLES)["test_shop.py"], encoding="utf-8")
    run(project, "-p", "no:timeout", "-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_what_goes_wrong_behind_the_test_fails_it(project: pytest.Pytester) -> None:
    """Each of these tests passes by itself; the fixtures must not let it."""
    project.makepyfile(
        stray="""
        import asyncio

        class Task:
            def __init__(self):
                self.kept = []

            def on_request(self, request):
                self.kept.append(asyncio.get_running_loop().create_task(asyncio.sleep(3600), name="stray task"))

        class Callback:
            def on_request(self, request):
                asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        """,
        test_wrong="""
        import pytest
        from iocproxy.testing import Expect, RawClient

        @pytest.mark.parametrize("use", ["stray:Task", "stray:Callback"])
        def test_middleware(iocproxy, iocproxy_origin, use):
            proxy = iocproxy(upstream=iocproxy_origin, middleware=[{"use": use}])
            with RawClient(proxy.address) as client:
                assert client.request("GET", "/status/200").status == 200
            proxy.wait_for_records(1)

        def test_script(iocproxy_origin):
            script = iocproxy_origin.script([Expect(b"this")])
            with RawClient(iocproxy_origin.address) as client:
                client.send(b"that")
                client.expect_closed()

        def test_fine(iocproxy, iocproxy_origin):
            iocproxy(upstream=iocproxy_origin)
        """,
    )
    result = run(project)
    result.assert_outcomes(passed=4, errors=3)
    text = result.stdout.str()
    assert re.search(r"a task outlived stop: .*stray task", text)
    assert "ZeroDivisionError" in text
    assert "expected b'this', got b'that'" in text


def test_the_fixtures_are_listed_with_what_they_do(project: pytest.Pytester) -> None:
    result = run(project, "--fixtures", "-q")
    for name in ("iocproxy", "iocproxy_origin", "iocproxy_origin_factory", "iocproxy_certificates", "iocproxy_clock"):
        assert re.search(rf"^{name}\b.*\n    \w", result.stdout.str(), re.MULTILINE), name


def test_without_trustme_certificates_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)  # as good as not installed
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'iocproxy\[test\]'"):
        Certificates(tmp_path)
