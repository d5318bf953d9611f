"""What is generated from the models: the JSON schema, docs/configuration.md, and the starter file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from iocproxy.config import Config, config_schema, example_toml, parse_config, reference_markdown
from iocproxy.config.describe import not_yet, section_of
from iocproxy.config.schema import sections

ROOT = Path(__file__).parents[2]

FIELDS = [(section, name, field) for section in sections(Config) for name, field in section.model_fields.items()]


def test_the_reference_file_is_up_to_date() -> None:
    file = ROOT / "docs" / "configuration.md"
    hint = "run `python -m iocproxy.config.reference`"
    assert file.read_text(encoding="utf-8") == reference_markdown(), hint


def test_the_command_writes_the_reference(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-W", "error", "-m", "iocproxy.config.reference"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "docs" / "configuration.md").read_text(encoding="utf-8") == reference_markdown()


@pytest.mark.parametrize(
    ("section", "name", "field"), FIELDS, ids=lambda part: getattr(part, "__name__", str(part)[:20])
)
def test_every_key_is_described(section: type[Config], name: str, field: FieldInfo) -> None:
    assert section.__doc__
    assert field.description
    assert field.description.endswith(".")
    assert field.examples or section_of(field.annotation) is not None
    if field.examples:
        assert re.search(
            rf"^\| `{name}` \|.*\| `{name} = .+` \| {re.escape(field.description)}", reference_markdown(), re.MULTILINE
        )


def test_what_is_not_available_is_marked_in_page_and_schema() -> None:
    marked = {(section.__name__, name) for section, name, field in FIELDS if not_yet(field)}
    assert marked == {
        ("ServerSettings", "workers"),
        ("Upstream", "balance"),
        ("Upstream", "health"),
        ("Config", "admin"),
    }
    schema = config_schema()
    tables = {**schema["$defs"], "Config": schema}
    for section, name in marked:
        entry = tables[section]["properties"][name]
        assert entry["x-not-available-yet"] in entry["description"]
    assert reference_markdown().lower().count("**not available yet") == len(marked)


def test_the_schema_is_in_terms_of_toml() -> None:
    schema = config_schema()
    text = json.dumps(schema)
    assert '"null"' not in text
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["required"] == ["listeners", "upstreams"]
    assert schema["additionalProperties"] is False
    assert all(table["additionalProperties"] is False for table in schema["$defs"].values())
    assert all(f'"#/$defs/{name}"' in text for name in schema["$defs"])
    assert schema["$defs"]["Timeouts"]["properties"]["keep_alive"]["default"] == "75s"
    assert schema["$defs"]["Http"]["properties"]["max_head"]["default"] == "32KiB"
    assert schema["$defs"]["ConnectionLimits"]["properties"]["rate"]["default"] == "60/10s"
    assert schema["$defs"]["Tls"]["properties"]["certificates"]["minItems"] == 1
    assert schema["properties"]["upstreams"]["additionalProperties"] is False


def test_each_call_gives_a_schema_of_its_own() -> None:
    config_schema()["$defs"].clear()
    assert config_schema()["$defs"]


def test_the_starter_file_loads() -> None:
    config = parse_config(example_toml())
    assert str(config.listeners[0].bind) == "127.0.0.1:8080"
    assert list(config.upstreams) == ["app"]
    plain = Config(listeners=config.listeners, upstreams=config.upstreams)
    assert config == plain, "what stands in it uncommented are the defaults"


def test_the_starter_file_loads_with_everything_switched_on() -> None:
    config = parse_config(re.sub(r"(?m)^#(?! )", "", example_toml()))
    assert [str(listener.bind) for listener in config.listeners] == ["127.0.0.1:8080", "127.0.0.1:8443"]
    assert [route.upstream for route in config.routes] == ["app", "api"]
    assert config.middleware[0].options == {"header": "x-token"}
    assert config.logging.access_file == Path.cwd() / "access.log"


def test_the_python_example_of_the_page_runs() -> None:
    example = re.search(r"```python\nfrom iocproxy import Config\n(.*?)```", reference_markdown(), re.DOTALL)
    assert example
    names = {"Config": Config}
    exec(example[1], names)
    assert isinstance(names["config"], Config)


def test_public_names() -> None:
    import iocproxy.config

    assert {"Config", "load_config", "parse_config", "config_schema", "reference_markdown", "example_toml"} < set(
        iocproxy.config.__all__
    )
    assert list(iocproxy.config.__all__) == sorted(iocproxy.config.__all__)
    assert all(hasattr(iocproxy.config, name) for name in iocproxy.config.__all__)
