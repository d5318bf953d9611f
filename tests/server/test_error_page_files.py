"""Error pages that cannot be used are faults with their place, before anything listens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from iocproxy import ConfigError, Proxy, load_config
from iocproxy.server.pages import MAX_PAGE

LEAST = '[[listeners]]\nbind = "127.0.0.1:0"\n[upstreams.app]\nservers = ["http://127.0.0.1:9"]\n'


async def faults_of(file: Path) -> dict[str, Any]:
    proxy = Proxy(load_config(file))
    with pytest.raises(ConfigError) as caught:
        await proxy.start()
    assert proxy.addresses == ()
    await proxy.stop()
    return {fault.path: fault for fault in caught.value.faults}


async def test_every_fault_at_once_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "large.html").write_bytes(b"x" * (MAX_PAGE + 1))
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    (tmp_path / "broken.json").write_bytes(b"{")
    (tmp_path / "deep.json").write_bytes(b"[" * MAX_PAGE)
    (tmp_path / "folder.html").mkdir()
    file = tmp_path / "iocproxy.toml"
    file.write_text(
        LEAST + "[errors.pages]\n"
        '404 = "none.html"\n'
        '5xx = "large.html"\n'
        "[[routes]]\n"
        'upstream = "app"\n'
        "[[routes]]\n"
        'path = "/a"\n'
        'upstream = "app"\n'
        "[routes.errors.pages]\n"
        '400 = "latin.txt"\n'
        '4xx = "broken.json"\n'
        '503 = "deep.json"\n'
        '502 = "folder.html"\n'
    )
    found = await faults_of(file)
    assert {path: (fault.line, fault.allowed) for path, fault in found.items()} == {
        "errors.pages.404": (6, "a readable file"),
        "errors.pages.5xx": (7, "at most 64KiB"),
        "routes[1].errors.pages.400": (14, "a file saved as UTF-8"),
        "routes[1].errors.pages.4xx": (15, "JSON, or another suffix"),
        "routes[1].errors.pages.503": (16, "JSON, or another suffix"),
        "routes[1].errors.pages.502": (17, "a readable file"),
    }
    assert found["errors.pages.404"].found.startswith(f"{tmp_path / 'none.html'} cannot be read (")
    assert found["errors.pages.5xx"].found == f"{tmp_path / 'large.html'} is too large"
    assert {fault.file for fault in found.values()} == {os.fspath(file)}


async def test_the_largest_page_and_one_file_for_several(tmp_path: Path) -> None:
    page = tmp_path / "largest.html"
    page.write_bytes(b"x" * MAX_PAGE)
    file = tmp_path / "iocproxy.toml"
    file.write_text(
        LEAST
        + "[[routes]]\nupstream = 'app'\nhost = 'b.test'\n[errors.pages]\n4xx = 'largest.html'\n5xx = 'largest.html'\n"
    )
    async with Proxy(load_config(file)) as proxy:
        page.unlink()  # read once: nothing of it is needed any more
        reader, writer = await asyncio.open_connection(*proxy.addresses[0])
        writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert len(body) == MAX_PAGE
