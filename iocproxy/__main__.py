"""``python -m iocproxy`` is the command ``iocproxy``."""

from __future__ import annotations

from iocproxy.cli import main

if __name__ == "__main__":
    main()
