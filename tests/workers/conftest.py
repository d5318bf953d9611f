"""A proxy in the foreground of the test's own process, and a thread that plays the operating system and the clients."""

from __future__ import annotations

import signal
import threading
from contextlib import asynccontextmanager

import pytest
import structlog

from iocproxy.config import Config
from iocproxy.server import Proxy
from iocproxy.testing.patience import PATIENCE
from iocproxy.workers import run


class Log:
    """A structlog logger whose events may be waited for from another thread."""

    def __init__(self):
        self.entries = []
        self._changed = threading.Condition()
        self.logger = structlog.wrap_logger(
            None, processors=[self._take], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def _take(self, _logger, level, entry):
        with self._changed:
            self.entries.append({"level": level, **entry})
            self._changed.notify_all()
        raise structlog.DropEvent

    def events(self):
        with self._changed:
            return [entry["event"] for entry in self.entries]

    def wait_for(self, event):
        """The first event of that name."""

        def found():
            return next((entry for entry in self.entries if entry["event"] == event), None)

        with self._changed:
            entry = self._changed.wait_for(found, PATIENCE)
            assert entry, f"no {event} among {self.entries}"
            return entry


class Foreground:
    """`run(config, script)` runs the proxy here while `script(self)` runs in a thread of its own.

    A script that fails fails the test; the proxy is ended in any case.
    """

    def __init__(self, log):
        self.log = log
        self.address = None
        self.proxy = None
        self._failure = None

    def run(self, config, script, *, started=None):
        log = self.log.logger

        @asynccontextmanager
        async def opening():
            self.proxy = Proxy(config if isinstance(config, Config) else Config(**config), log=log)
            yield self.proxy

        def listening(proxy):
            self.address = tuple(proxy.addresses[0])
            if started is not None:
                started(proxy)
            log.info("started")

        thread = threading.Thread(target=self._play, args=(script,), name="script")
        # A script's last resort must not be deadly where nobody listens any more.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        thread.start()
        try:
            return run(opening, log=log, started=listening)
        finally:
            thread.join()
            signal.signal(signal.SIGINT, before)
            if self._failure is not None:
                raise self._failure

    def _play(self, script):
        try:
            script(self)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._failure = error
            for _ in range(2):
                self.signal(signal.SIGINT)

    @staticmethod
    def signal(number):
        """What the system does: the C handler runs in some thread, Python's on the main one."""
        signal.raise_signal(number)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def foreground(log):
    return Foreground(log)


@pytest.fixture
def settings(iocproxy_origin):
    """The sections of a configuration in front of the origin."""
    return {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "upstreams": {"origin": {"servers": [iocproxy_origin.url]}},
        "logging": {"access": False},
        "server": {"drain_timeout": "1m"},
    }
