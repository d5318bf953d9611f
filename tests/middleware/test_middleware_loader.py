"""From "package.module:Class" to an instance; everything that can be wrong with it is a fault with a place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iocproxy import ConfigError, Fault
from iocproxy.message import Client
from iocproxy.middleware import Chain, load_middleware

SOURCE = """
class Good:
    def __init__(self, header="x-token", *, strict=False):
        self.header, self.strict = header, strict
        if header == "bad":
            raise ValueError("not that one")
    def on_request(self, request): ...
class Outer:
    class Inner:
        async def on_complete(self, record): ...
class Idle:
    def on_reqest(self, request): ...
class NoHook:
    on_request = 5
class AsyncEnd:
    async def on_disconnect(self, client): ...
def function(): ...
value = 5
"""


@pytest.fixture
def name(module: Callable[[str], str]) -> str:
    return module(SOURCE)


def fault_of(use: str, options: dict[str, object] | None = None) -> Fault:
    with pytest.raises(ConfigError) as caught:
        load_middleware(use, options or {}, path="middleware[3]")
    (fault,) = caught.value.faults
    assert fault.allowed
    return fault


def test_an_instance_with_its_options(name: str) -> None:
    made = load_middleware(f"{name}:Good", {"header": "x-other", "strict": True}, path="middleware[0]")
    assert (made.header, made.strict) == ("x-other", True)  # type: ignore[attr-defined]


def test_each_entry_is_an_instance_of_its_own(name: str) -> None:
    first, second = (load_middleware(f"{name}:Good", {}, path="m") for _ in range(2))
    assert first is not second


def test_a_class_within_a_class(name: str) -> None:
    assert type(load_middleware(f"{name}:Outer.Inner", {}, path="m")).__name__ == "Inner"


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("{}:Missing", "no class 'Missing'"),
        ("{}:Outer.Missing", "no class 'Outer.Missing'"),
        ("{}:function", "no class 'function'"),
        ("{}:value", "no class 'value'"),
        ("{}:Idle", "takes part in nothing"),
        ("{}:NoHook", "takes part in nothing"),
        ("{}:AsyncEnd", "async on_disconnect"),
        ("{}.deeper:Good", "cannot be imported"),
        ("no_such_package_at_all.x:Good", "No module named 'no_such_package_at_all'"),
    ],
)
def test_what_cannot_be_used(name: str, use: str, said: str) -> None:
    fault = fault_of(use.format(name))
    assert fault.path == "middleware[3].use"
    assert said in fault.found


@pytest.mark.parametrize(
    "source", ["raise RuntimeError('on its own')", "import no_such_thing_here", "def broken(:", "1 / 0"]
)
def test_a_module_that_fails_to_import(module: Callable[[str], str], source: str) -> None:
    fault = fault_of(f"{module(source)}:Good")
    assert fault.path == "middleware[3].use"
    assert "cannot be imported: " in fault.found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hedaer": "x"}, "unexpected keyword argument 'hedaer'"),
        ({"header": "bad"}, "ValueError: not that one"),
    ],
)
def test_options_that_the_class_does_not_take(name: str, options: dict[str, object], said: str) -> None:
    fault = fault_of(f"{name}:Good", options)
    assert fault.path == "middleware[3].options"
    assert said in fault.found


def test_the_chain_sorts_hooks_by_event_and_keeps_the_order() -> None:
    class Both:
        def on_connect(self, client: Client) -> None: ...
        def on_request(self, request: object) -> None: ...

    class Late:
        def on_disconnect(self, client: Client) -> None: ...
        def on_request(self, request: object) -> None: ...

    both, late = Both(), Late()
    chain = Chain([both, late])
    assert chain.on_request == (both.on_request, late.on_request)
    assert [keeper.enter == both.on_connect for keeper in chain.doorkeepers] == [True, False]
    assert chain.doorkeepers[1].leave == late.on_disconnect
    assert (chain.on_response, chain.on_complete) == ((), ())
    assert chain.doorkeepers[0].leave(Client("::1", 1, b"", "x")) is None
    assert repr(chain) == "<Chain Both -> Late>"
