"""``python -m iocproxy.config.reference``: rewrite docs/configuration.md, from the top of a checkout."""

from __future__ import annotations

from pathlib import Path

from iocproxy.config.manual import reference_markdown


def main() -> None:
    Path("docs", "configuration.md").write_text(reference_markdown(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
