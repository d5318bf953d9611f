"""Which upstream a request goes to, and what holds for it on the way."""

from iocproxy.routing.rules import Rules, compile_rules
from iocproxy.routing.table import Route, RouteTable

__all__ = ["Route", "RouteTable", "Rules", "compile_rules"]
