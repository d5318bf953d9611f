"""The certificates of one listener, the policies of its hosts, and which of them a client gets."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iocproxy.tls.certificate import Certificate
from iocproxy.tls.client_hello import ClientHello
from iocproxy.tls.context import server_context
from iocproxy.tls.hosts import HostCheck
from iocproxy.tls.key_kinds import can_verify, kind, preference, suites_for_ecdsa
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
        before: CertificateStore | None = None,
    ) -> None:
        """`policy` is the listener's; `hosts` names those that have another: a lower-case host name, or "*.example.com"
        for every name below it. `offload` is the policy of `offload.step_cost`. From `before`, which this one is to
        replace, the contexts of unchanged certificates under unchanged policies are taken over, and with them the
        sessions.

        Blocking, and raises what `server_context` does. Raises ValueError without a certificate.
        """
        if not certificates:
            raise ValueError("a TLS listener needs at least one certificate")
        self.policy = policy
        self._hosts = dict(hosts or {})
        self._contexts: dict[tuple[bytes, ServerPolicy], ssl.SSLContext] = {}
        known = {} if before is None else before._contexts
        self._identities = {
            each: tuple(
                Identity(
                    certificate,
                    each,
                    self._context(certificate, each, known),
                    step_cost(certificate.key_type, offload),
                    verify_cost(offload) if each.client_auth is not None else 0,
                )
                for certificate in certificates
            )
            for each in dict.fromkeys((policy, *self._hosts.values()))
        }
        self._checks = {each: HostCheck(each, self.policy_for) for each in self._identities}
        # One of each kind of key for a name, the best kind first; those of the first certificate are the default.
        self._by_name: dict[str, tuple[int, ...]] = {}
        for index, certificate in enumerate(certificates):
            for name in certificate.names:
                others = self._by_name.get(name, ())
                if all(kind(certificates[other]) != kind(certificate) for other in others):
                    found = sorted((*others, index), key=lambda each: preference(certificates[each]))
                    self._by_name[name] = tuple(found)
        self._default = self._beside_the_first(certificates)
        self._suites = {each: suites_for_ecdsa(found[0].context) for each, found in self._identities.items()}

    def _context(
        self,
        certificate: Certificate,
        policy: ServerPolicy,
        known: Mapping[tuple[bytes, ServerPolicy], ssl.SSLContext],
    ) -> ssl.SSLContext:
        pair = certificate.digest, policy
        if pair not in self._contexts:
            self._contexts[pair] = known[pair] if pair in known else server_context(certificate, policy)
        return self._contexts[pair]

    def _beside_the_first(self, certificates: Sequence[Certificate]) -> tuple[int, ...]:
        """The first certificate with those of other kinds that are there for all of its names."""
        sets = [set(self._by_name[name]) for name in certificates[0].names]
        common = set.intersection(*sets) if sets else {0}
        return tuple(sorted(common | {0}, key=lambda each: preference(certificates[each])))

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
        first; where there is an RSA one beside it, that for clients that can verify no other. Raises HelloError for a
        hello that the policy refuses."""
        name = hello.server_name
        found = self._by_name.get(name)
        if found is None and name:
            found = self._by_name.get("*." + name.partition(".")[2])
        policy = self.policy_for(name)
        policy.admit(hello)
        identities = self._identities[policy]
        *better, last = found or self._default
        for index in better:
            if can_verify(hello, identities[index].certificate.key_type, self._suites[policy]):
                return identities[index]
        return identities[last]

    def host_check(self, policy: ServerPolicy) -> HostCheck | None:
        """Asked for every request on a connection under `policy`; None where all hosts have the same one."""
        return self._checks[policy] if len(self._checks) > 1 else None

    def session_stats(self, *, but: CertificateStore | None = None) -> dict[str, int]:
        """OpenSSL's counters (`ssl.SSLContext.session_stats`) summed over the contexts, those of `but` left out."""
        others = () if but is None else set(map(id, but._contexts.values()))
        total: dict[str, int] = {}
        for context in self._contexts.values():
            if id(context) not in others:
                for counter, value in context.session_stats().items():
                    total[counter] = total.get(counter, 0) + value
        return total

    def __repr__(self) -> str:
        names = dict.fromkeys(str(identity.certificate.cert) for identity in self.identities)
        return f"<CertificateStore {', '.join(names)}>"
