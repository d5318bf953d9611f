"""Whether a request belongs on the connection it came over (RFC 9110 section 7.4).

The policy of a connection was chosen by the name in its ClientHello, before there was a request. A client may ask for
an open host there, and then name a host in its request that demands a certificate. So what is compared are the
policies, not the names: a connection may be used for every host whose policy is the same.
"""

from __future__ import annotations

from collections.abc import Callable

from iocproxy.tls.policy import ServerPolicy

#: Hosts remembered, of clients that may send any.
_REMEMBERED = 512


class HostCheck:
    """For the connections of one listener under one policy. `allows` is asked for every request."""

    __slots__ = ("_known", "_policy", "_policy_for")

    def __init__(self, policy: ServerPolicy, policy_for: Callable[[str], ServerPolicy]) -> None:
        self._policy = policy
        self._policy_for = policy_for
        self._known: dict[bytes, bool] = {}

    def allows(self, host: bytes) -> bool:
        """Whether `host`, an authority as a request names it, b"" for none, is under the connection's policy."""
        known = self._known
        allowed = known.get(host)
        if allowed is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            # An escape could hide a name from us that whoever decodes it then sees; names have none.
            allowed = known[host] = b"%" not in host and self._policy_for(host_name(host)) == self._policy
        return allowed

    def __repr__(self) -> str:
        return f"<HostCheck {self._policy}>"


def host_name(host: bytes) -> str:
    """The name in an authority: lower case, without the port and without the root's dot, as routes see it."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].rstrip(".")
