"""The certificates of one listener, the policies of its hosts, and which of them a client gets."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iocproxy.tls.certificate import Certificate
from iocproxy.tls.client_hello import ClientHello
from iocproxy.tls.context import server_context
from iocproxy.tls.hosts import HostCheck
from iocproxy.tls.offload import step_cost, verify_cost
from iocproxy.tls.policy import DEFAULT_POLICY, ServerPolicy


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate under a policy, with the one context that serves it."""

    certificate: Certificate
    policy: ServerPolicy
    context: ssl.SSLContext
    step_cost: float  #: what its handshakes cost the loop, see `offload.step_cost`
    verify_cost: float  #: and what a client's certificate adds in a later step, 0 where none is asked for


class CertificateStore:
    """The certificates and policies of one listener; immutable, shared by its connections, and by threads.

    Each pair of certificate and policy has a context of its own and so its own session cache and ticket keys: a
    session made under one cannot be taken up under another.
    """

    def __init__(
        self,
        certificates: Sequence[Certificate],
        policy: ServerPolicy = DEFAULT_POLICY,
        hosts: Mapping[str, ServerPolicy] | None = None,
        *,
        offload: str = "auto",
    ) -> None:
        """`policy` is the listener's; `hosts` names those that have another: a lower-case host name, or "*.example.com"
        for every name below it. `offload` is the policy of `offload.step_cost`.

        Blocking, and raises what `server_context` does. Raises ValueError without a certificate.
        """
        if not certificates:
            raise ValueError("a TLS listener needs at least one certificate")
        self.policy = policy
        self._hosts = dict(hosts or {})
        self._identities = {
            each: tuple(
                Identity(
                    certificate,
                    each,
                    server_context(certificate, each),
                    step_cost(certificate.key_type, offload),
                    verify_cost(offload) if each.client_auth is not None else 0,
                )
                for certificate in certificates
            )
            for each in dict.fromkeys((policy, *self._hosts.values()))
        }
        self._checks = {each: HostCheck(each, self.policy_for) for each in self._identities}
        self._by_name: dict[str, int] = {}
        for index, certificate in enumerate(certificates):
            for name in certificate.names:
                self._by_name.setdefault(name, index)

    @property
    def identities(self) -> tuple[Identity, ...]:
        """All of them, the policies in order of first mention and under each the certificates."""
        return tuple(identity for identities in self._identities.values() for identity in identities)

    def policy_for(self, host: str) -> ServerPolicy:
        """What holds for `host`, in lower case and without port, "" where none was named: exact, else the closest
        wildcard above it, else the listener's. The root's dot makes no difference."""
        if not self._hosts:
            return self.policy
        host = host.rstrip(".")
        found = self._hosts.get(host)
        while found is None and host:
            _, _, host = host.partition(".")
            found = self._hosts.get(f"*.{host}")
        return found or self.policy

    def choose(self, hello: ClientHello) -> Identity:
        """The policy of the name asked for, and its certificate: exact, else a wildcard (one label, RFC 9525), else the
        first. Raises HelloError for a hello that the policy refuses."""
        name = hello.server_name
        index = self._by_name.get(name)
        if index is None and name:
            index = self._by_name.get("*." + name.partition(".")[2])
        policy = self.policy_for(name)
        policy.admit(hello)
        return self._identities[policy][index or 0]

    def host_check(self, policy: ServerPolicy) -> HostCheck | None:
        """Asked for every request on a connection under `policy`; None where all hosts have the same one."""
        return self._checks[policy] if len(self._checks) > 1 else None

    def session_stats(self) -> dict[str, int]:
        """OpenSSL's counters (`ssl.SSLContext.session_stats`) summed over the contexts."""
        total: dict[str, int] = {}
        for identity in self.identities:
            for counter, value in identity.context.session_stats().items():
                total[counter] = total.get(counter, 0) + value
        return total

    def __repr__(self) -> str:
        names = dict.fromkeys(str(identity.certificate.cert) for identity in self.identities)
        return f"<CertificateStore {', '.join(names)}>"
