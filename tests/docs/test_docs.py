"""What the documentation says holds: links lead somewhere, examples are valid, commands and names exist.

A comment right before a block of code says what is done with it:

    <!-- config -->    TOML: a complete configuration; others are completed with a listener and an upstream
    <!-- run -->       Python: is run; others are only compiled
    <!-- pytest -->    Python: tests that pass, beside the modules that the page shows before them
    <!-- ci:test -->   the commands that set up and run the tests; <!-- ci:demo --> those for the demo
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import tomli
import typer

from iocproxy.cli.app import app
from iocproxy.cli.check import check
from iocproxy.config import Config, Timeouts, parse_config
from iocproxy.errors import ConfigError
from iocproxy.tls import self_signed

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])

#: Seconds that a program shown on a page may take.
PATIENCE = 120 if sys.platform == "win32" else 60

#: RFC 9209 section 2.3, all error types.
PROXY_ERRORS = frozenset(
    {
        "dns_timeout",
        "dns_error",
        "destination_not_found",
        "destination_unavailable",
        "destination_ip_prohibited",
        "destination_ip_unroutable",
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "connection_read_timeout",
        "connection_write_timeout",
        "connection_limit_reached",
        "tls_protocol_error",
        "tls_certificate_error",
        "tls_alert_received",
        "http_request_error",
        "http_request_denied",
        "http_response_incomplete",
        "http_response_header_section_size",
        "http_response_header_size",
        "http_response_body_size",
        "http_response_trailer_section_size",
        "http_response_trailer_size",
        "http_response_transfer_coding",
        "http_response_content_coding",
        "http_response_timeout",
        "http_upgrade_failed",
        "http_protocol_error",
        "proxy_internal_response",
        "proxy_internal_error",
        "proxy_configuration_error",
        "proxy_loop_detected",
    }
)


class Block(NamedTuple):
    page: Path
    line: int  #: of the opening fence, from 1
    mark: str  #: the comment before it, "" for none
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@cache
def read(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        for match in _FENCE.finditer(read(page)):
            if match["language"] == language:
                line = read(page).count("\n", 0, match.start("language")) + 1
                found.append(Block(page, line, match["mark"] or "", language, match["text"]))
    return found


def marked(mark: str) -> Block:
    (block,) = (block for language in ("sh", "python", "toml") for block in blocks(language) if block.mark == mark)
    return block


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", read(page))


# ── links and names ──────────────────────────────────────────────────────────────────────────────────────────────


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.is_file() or not goal.is_relative_to(ROOT) or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths in code spans count from the repository, or, where a page says so, from the package."""
    bases = [ROOT, ROOT / "iocproxy"] if "Paths are below `iocproxy/`" in read(page) else [ROOT]
    spans = re.findall(r"`((?:iocproxy|tests|docs|examples|\w+)(?:/[\w.-]+)+/?)`", prose(page))
    wanted = [span for span in spans if span.startswith(("iocproxy/", "tests/", "docs/", "examples/")) or ".py" in span]
    assert [span for span in wanted if not any((base / span).exists() for base in bases)] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            targets = re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", prose(page))
            waiting += [(page.parent / target).resolve() for target in targets if "://" not in target]
    assert sorted(map(name, set(PAGES) - seen)) == []


# ── blocks of code ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_configurations_are_valid(block: Block) -> None:
    if block.mark == "config":
        parse_config(block.text)
        return
    settings = tomli.loads(block.text)
    settings.setdefault("listeners", [{"bind": "127.0.0.1:8080"}])
    settings.setdefault("upstreams", {"app": {"servers": ["http://127.0.0.1:9000"]}})
    Config(**settings)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    # `await` at the top level would need a loop around it; no page has that.
    compile(block.text, str(block), "exec")


def run(*arguments: str | Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.mark == "run"], ids=str)
def test_programs_run(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text, "utf-8")
    run("-W", "error", program, cwd=tmp_path)


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.mark == "pytest"], ids=str)
def test_tests_on_a_page_pass(block: Block, tmp_path: Path) -> None:
    for other in blocks("python"):
        match = re.search(r"^class (\w+)", other.text, re.MULTILINE)
        if other.page == block.page and other.line < block.line and match:
            (tmp_path / f"{match[1].lower()}.py").write_text(other.text, "utf-8")
    (tmp_path / "test_page.py").write_text(block.text, "utf-8")
    said = run("-m", "pytest", "-p", "iocproxy.testing.plugin", "-p", "no:cacheprovider", "-q", cwd=tmp_path)
    assert f"{len(re.findall(r'^def test_', block.text, re.MULTILINE))} passed" in said


def test_the_readme_s_test_passes(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("python") if block.page == ROOT / "README.md" and "def test_" in block.text)
    (tmp_path / "test_readme.py").write_text(block.text, "utf-8")
    said = run("-m", "pytest", "-p", "iocproxy.testing.plugin", "-p", "no:cacheprovider", "-q", cwd=tmp_path)
    assert "1 passed" in said


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def commands() -> list[tuple[str, list[str]]]:
    """Each line of a shell block that runs iocproxy: where it stands, and its arguments."""
    found = []
    for block in [*blocks("sh"), *blocks("powershell")]:
        text = block.text.replace("\\\n", " ").replace("\\Scripts\\", "/bin/")
        for part in re.split(r"\n|&&|;", text):
            words = shlex.split(part, comments=True)
            if words[:3] == ["python", "-m", "iocproxy"]:
                words = words[2:]
            if words and words[0].rpartition("/")[2] == "iocproxy":
                found.append((str(block), words[1:]))
    return found


def test_commands_exist_with_their_options() -> None:
    command = typer.main.get_command(app)
    given = commands()
    for place, arguments in given:
        context = command.make_context("iocproxy", list(arguments), resilient_parsing=True)
        found = command.get_command(context, arguments[0])  # type: ignore[attr-defined]
        assert found is not None, f"{place}: {arguments}"
        found.make_parser(context).parse_args(args=arguments[1:])
    assert {arguments[0] for _, arguments in given} >= {"serve", "check"}


def test_the_table_of_commands_is_complete() -> None:
    table = read(ROOT / "docs/operations.md").split("## Commands")[1].split("\n## ")[0]
    described = set(re.findall(r"^\| `iocproxy (\w+)", table, re.MULTILINE))
    assert described == {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}


@pytest.mark.parametrize("mark", ["ci:demo", "ci:test"])
def test_the_readme_s_commands_can_be_run_by_a_script(mark: str) -> None:
    """One line, three commands joined by &&: an environment, an installation, a program in it that exists."""
    block = marked(mark)
    assert block.page == ROOT / "README.md"
    assert block.language == "sh"
    (line,) = block.text.splitlines()
    make, install, use = (shlex.split(part) for part in line.split("&&"))
    project = tomli.loads(read(ROOT / "pyproject.toml"))["project"]
    assert make == ["python3", "-m", "venv", ".venv"]
    assert install[:4] == [".venv/bin/python", "-m", "pip", "install"]
    extras = re.findall(r"\[(\w+)\]", install[-1])
    assert set(extras) <= set(project["optional-dependencies"])
    if mark == "ci:demo":
        assert use == [".venv/bin/iocproxy", "serve"]
        assert "iocproxy" in project["scripts"]
    else:
        assert use == [".venv/bin/python", "-m", "pytest"]
        assert any(dependency.startswith("pytest>") for dependency in project["optional-dependencies"]["test"])


@pytest.mark.parametrize("mark", ["ci:demo", "ci:test"])
def test_powershell_does_the_same(mark: str) -> None:
    shell = marked(mark)
    other = next(block for block in blocks("powershell") if block.page == shell.page and block.line > shell.line)
    translated = shell.text.replace("python3", "py").replace("/bin/", "\\Scripts\\").replace(" &&", ";")
    assert other.text == translated


# ── tables that follow the code ──────────────────────────────────────────────────────────────────────────────────


def strings_in_the_code() -> set[str]:
    """Every text constant of the package."""
    found = set()
    for file in ROOT.glob("iocproxy/**/*.py"):
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def section(page: str, title: str) -> str:
    return read(ROOT / page).split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_proxy_status_is_explained() -> None:
    used = strings_in_the_code() & PROXY_ERRORS
    rows = re.findall(
        r"^\| (\d{3}) \| (.*?) \|", section("docs/operations.md", "Answers the proxy gives itself"), re.MULTILINE
    )
    named = {error for _, cell in rows for error in re.findall(r"`(\w+)`", cell)}
    # A response body's silence is noticed behind its head, when nothing can be answered any more.
    assert used - named == {"connection_read_timeout"}
    assert named <= used
    assert [int(status) for status, _ in rows] == sorted(int(status) for status, _ in rows)


def test_every_timeout_is_explained() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", section("docs/operations.md", "Timeouts"), re.MULTILINE)
    assert set(rows) == {*Timeouts.model_fields, "server.drain_timeout"}


def test_events_that_are_named_exist() -> None:
    rows = re.findall(r"^\| (`\w.*?) \|", section("docs/operations.md", "Logs"), re.MULTILINE)
    names = {event for row in rows for event in re.findall(r"`(\w+)`", row)}
    assert names
    assert names <= strings_in_the_code()


# ── the tutorial ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tutorial_s_check_says_what_it_says_there(tmp_path: Path) -> None:
    made = self_signed(["localhost"])
    (tmp_path / "site.pem").write_bytes(made.cert)
    (tmp_path / "site.key").write_bytes(made.key)
    (config,) = (block for block in blocks("toml") if block.page.name == "tutorial.md" and block.mark == "config")
    file = tmp_path / "iocproxy.toml"
    file.write_text(config.text, "utf-8")
    said = check(file).plain.replace(str(tmp_path) + os.sep, "")
    shown = [block.text for block in blocks("")]
    assert said.rstrip() + "\n" in shown

    wrong = config.text.replace(':9000"', ':9000/x"') + '\n[limits.requests]\nrte = "5/10s"\n'
    with pytest.raises(ConfigError) as faults:
        parse_config(wrong, "iocproxy.toml")
    assert f"{faults.value}\n" in shown
