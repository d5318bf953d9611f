"""Which upstream a request goes to."""

from iocproxy.routing.table import Route, RouteTable

__all__ = ["Route", "RouteTable"]
