"""Windows: run a command in a console of its own, where Ctrl+C can be pressed without anybody else hearing it.

    python console.py COMMAND ARGUMENT…

Each line of standard input presses Ctrl+C once; its end ends the command. Output, errors and exit code are the
command's own. `os.kill` and `send_signal` cannot do this: Ctrl+C reaches every process of a console or none.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading


def main(arguments: list[str]) -> None:
    assert sys.platform == "win32"
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.FreeConsole()
    if not kernel.AllocConsole():
        raise ctypes.WinError(ctypes.get_last_error())
    # The standard handles are those of the new console now; these are what we were started with.
    child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=sys.stdout, stderr=sys.stderr)
    # A pipe that the command may find without a reader has no second writer.
    os.close(1)
    os.close(2)
    signal.signal(signal.SIGINT, lambda *_: None)  # after the start: what ignores Ctrl+C hands that down

    def follow() -> None:
        os._exit(child.wait())

    threading.Thread(target=follow, daemon=True).start()
    while os.read(0, 1):
        kernel.GenerateConsoleCtrlEvent(signal.CTRL_C_EVENT, 0)
    child.kill()
    child.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
