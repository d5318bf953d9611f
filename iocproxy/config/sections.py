"""The sections of a configuration, one model each: the keys of DESIGN's TOML file with type, default and meaning.

`description` and `examples` are what the reference and the editor show; every key has both. Values after validation
are ready to use: durations are float seconds, sizes are bytes, paths are absolute.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from iocproxy.config import shapes
from iocproxy.config.base import Section
from iocproxy.config.hsts import HstsItem
from iocproxy.config.limits import RouteLimits
from iocproxy.config.servers import ServerItem
from iocproxy.config.shapes import (
    AlpnProtocol,
    BindAddress,
    BodyRate,
    ClassName,
    ClientAuth,
    ErrorFiles,
    FieldName,
    FilePath,
    Flag,
    Grace,
    HostName,
    HttpsRedirect,
    IpNetwork,
    Items,
    MaxBody,
    MaxFields,
    MaxHead,
    MaxRequestLine,
    MaxRequests,
    NotYet,
    RouteHost,
    RoutePath,
    SomeItems,
    Text,
    Timeout,
    TlsHost,
    TlsVersion,
    UpstreamHost,
    Workers,
)
from iocproxy.config.values import ALPN_PROTOCOLS


class ServerSettings(Section):
    """The process as a whole."""

    workers: Annotated[Workers, NotYet(1, "`workers` other than 1")] = Field(
        1, description='Worker processes; "auto" is one per processor.', examples=[1]
    )
    threads: Annotated[int, shapes.whole(1, 256)] = Field(
        4, description="Threads for work that would hold up the event loop, such as RSA handshakes.", examples=[8]
    )
    drain_timeout: Annotated[float, shapes.duration("0s", "1d")] = Field(
        10.0,
        description="How long requests in flight may take to end when the proxy stops; then they are cut off.",
        examples=["30s"],
    )
    certificate_check: Annotated[float | None, shapes.duration("50ms", "1h").or_off()] = Field(
        30.0,
        description="How often the files of certificates, client authorities and revocation lists are looked at. New "
        "connections get what is new; what cannot be used is logged, and the old stays in use.",
        examples=["30s"],
    )
    certificate_warning: Annotated[float | None, shapes.duration("1h", "365d").or_off()] = Field(
        14 * 86_400.0,
        description="How long before a certificate expires the log warns of it, once a day.",
        examples=["14d"],
    )
    trusted_proxies: Items[IpNetwork] = Field(
        (),
        description="Networks of proxies in front of this one, whose X-Forwarded-* and Forwarded fields are believed. "
        "From everybody else those fields are replaced.",
        examples=[["10.0.0.0/8"]],
    )


class Timeouts(Section):
    """How long each state of a connection may last. None can be switched off."""

    request_header: Timeout = Field(
        15.0,
        description="From the first byte of a request to the end of its head; then 408.",
        examples=["15s"],
    )
    request_body: Timeout = Field(30.0, description="Silence within a request body; then 408.", examples=["30s"])
    response_write: Timeout = Field(
        30.0, description="How long a client may leave a response unread before it is cut off.", examples=["30s"]
    )
    keep_alive: Timeout = Field(75.0, description="Idle time between two requests of a client.", examples=["75s"])
    tls_handshake: Timeout = Field(10.0, description="From accept to the end of the TLS handshake.", examples=["10s"])
    connect: Timeout = Field(
        5.0, description="Connecting to a server of an upstream, TLS included; then 504.", examples=["3s"]
    )
    upstream_response: Timeout = Field(
        60.0, description="From the request sent to the head of the response; then 504.", examples=["15s"]
    )
    upstream_body: Timeout = Field(60.0, description="Silence within a response body.", examples=["60s"])
    upstream_idle: Timeout = Field(
        60.0, description="How long an upstream connection is kept unused in the pool.", examples=["60s"]
    )
    tunnel_idle: Timeout = Field(
        600.0, description="Silence in both directions of a WebSocket or another tunnel.", examples=["10m"]
    )


class Http(Section):
    """Bounds of HTTP/1 messages. Those of a head hold for the responses of upstreams too. The rate holds for the body
    of a request on its way in, and for a response that the client is slow to read."""

    max_request_line: MaxRequestLine = Field(
        8 * 1024, description="The first line; a longer one in a request is answered with 414.", examples=["8KiB"]
    )
    max_head: MaxHead = Field(
        32 * 1024, description="The whole head; a larger one in a request is answered with 431.", examples=["32KiB"]
    )
    max_fields: MaxFields = Field(
        100, description="Header fields in a head; more in a request are answered with 431.", examples=[100]
    )
    max_body: MaxBody = Field(
        shapes.UNBOUNDED,
        description="The body of a request. A longer one is answered with 413: before anything of it is read where its "
        "length is announced, else as soon as it is exceeded.",
        examples=["10MiB"],
    )
    max_requests: MaxRequests = Field(
        1000, description="Requests on one client connection; the response to the last one closes it.", examples=[1000]
    )
    min_body_rate: BodyRate = Field(
        240,
        description="Octets a second that a client must send of a body, or take of a response, on average. Slower "
        "requests are answered with 408, slower readers are cut off.",
        examples=["240B"],
    )
    min_body_grace: Grace = Field(
        5.0, description="How long a request's body may take before its rate is looked at.", examples=["5s"]
    )
    trace: Flag = Field(
        False,
        description="Pass TRACE on. It has a server send back what it received, cookies included; otherwise it is "
        "answered with 405.",
        examples=[True],
    )


class ClientCertificateFields(Section):
    """Header fields that tell upstreams whose certificate the client has shown, each under the name given here. What
    has no name here is not sent, and nothing is sent without a certificate. What any client sends under these names is
    removed, at plain listeners and from trusted proxies too."""

    subject: FieldName | None = Field(
        None,
        description="Whom the certificate is of, as RFC 4514 writes it: `CN=ali,O=Example`.",
        examples=["X-Client-Subject"],
    )
    issuer: FieldName | None = Field(
        None, description="Who issued it, written the same way.", examples=["X-Client-Issuer"]
    )
    serial: FieldName | None = Field(
        None, description="Its serial number, in hexadecimal.", examples=["X-Client-Serial"]
    )
    fingerprint: FieldName | None = Field(
        None, description="The SHA-256 of the certificate, in hexadecimal.", examples=["X-Client-Fingerprint"]
    )
    dns: FieldName | None = Field(
        None, description="The host names in it (subjectAltName), separated by commas.", examples=["X-Client-DNS"]
    )
    email: FieldName | None = Field(
        None, description="The mail addresses in it, separated by commas.", examples=["X-Client-Email"]
    )
    uri: FieldName | None = Field(None, description="The URIs in it, separated by commas.", examples=["X-Client-URI"])
    not_after: FieldName | None = Field(
        None, description="When it expires: `2027-01-31T12:00:00Z`.", examples=["X-Client-Not-After"]
    )
    rfc9440: Flag = Field(
        False,
        description="Send the whole certificate as `Client-Cert` (RFC 9440), and remove `Client-Cert-Chain`.",
        examples=[True],
    )


class Forwarding(Section):
    """What upstreams are told about a request, beside `Via` and `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, which
    are always sent."""

    forwarded: Flag = Field(
        False,
        description="Send `Forwarded` (RFC 7239) as well. What a trusted proxy sent there is kept in front of it.",
        examples=[True],
    )
    request_id: Annotated[str, shapes.choice("off", "make", "keep")] = Field(
        "off",
        description='"make" gives every request an `X-Request-ID` and keeps the one of a trusted proxy; "keep" keeps '
        "every client's. What is no token of at most 128 characters is replaced. The id is in the access log. With "
        '"off" the field passes like any other.',
        examples=["make"],
    )
    client_certificate: ClientCertificateFields = Field(
        default_factory=ClientCertificateFields, description="Fields about the certificates of clients."
    )


class Errors(Section):
    """Pages of your own for the errors that the proxy answers with. What an upstream answers is never replaced."""

    pages: ErrorFiles = Field(
        default_factory=dict,
        description="A file for a status or a class of them; the status goes before its class. Files are read at the "
        "start, at most 64KiB of UTF-8 each, and sent by their suffix as HTML, JSON or text. Whoever asks for JSON "
        "gets a .json file or the built-in JSON.",
        examples=[{"404": "errors/404.html", "5xx": "errors/5xx.html"}],
    )


class Certificate(Section):
    """A certificate with its key."""

    cert: FilePath = Field(
        description="PEM file with the certificate, followed by the intermediate ones.", examples=["site.pem"]
    )
    key: FilePath = Field(description="PEM file with the private key.", examples=["site.key"])
    password: Text | None = Field(
        None, description="The password of an encrypted private key.", examples=["secret"], repr=False
    )


class TlsHosts(Section):
    """Names at this listener that have rules of their own. What is left out is as in `[listeners.tls]`."""

    names: SomeItems[TlsHost] = Field(
        description='Host names; "*.example.com" is every name below. A connection is under the rules of the name that '
        "the client asks for (SNI), and a request for a host under other rules is answered with 421.",
        examples=[["admin.example.com", "*.internal.example.com"]],
    )
    client_auth: ClientAuth | None = Field(None, description="As in `[listeners.tls]`.", examples=["required"])
    client_ca: FilePath | None = Field(None, description="As in `[listeners.tls]`.", examples=["staff-ca.pem"])
    client_crl: FilePath | None = Field(
        None,
        description="As in `[listeners.tls]`. Needed with a `client_ca` of their own where the listener has one.",
        examples=["staff.crl"],
    )
    min_version: TlsVersion | None = Field(None, description="As in `[listeners.tls]`.", examples=["1.3"])


class Tls(Section):
    """TLS at a listener. Without this table the listener speaks plain HTTP."""

    certificates: SomeItems[Certificate] = Field(
        description="The name a client asks for (SNI) picks the certificate; the first one is the default.",
        examples=[[{"cert": "site.pem", "key": "site.key"}]],
    )
    min_version: TlsVersion = Field("1.2", description="The oldest TLS version a client may use.", examples=["1.3"])
    ciphers: Text | None = Field(
        None,
        description="An OpenSSL cipher list for TLS 1.2, the best first. Left out: ECDHE with AES-GCM or "
        "ChaCha20-Poly1305. The suites of TLS 1.3 are OpenSSL's own.",
        examples=["ECDHE+AESGCM"],
    )
    alpn: Items[AlpnProtocol] = Field(
        ALPN_PROTOCOLS,
        description="The protocols offered (ALPN), the best first. A client that offers only others is refused; with "
        "[] what clients offer is ignored.",
        examples=[["http/1.1"]],
    )
    session_tickets: Flag = Field(
        True,
        description="Let clients resume a session by ticket; with false by the server's cache.",
        examples=[True],
    )
    num_tickets: Annotated[int, shapes.whole(0, 8)] = Field(
        2,
        description="Tickets that follow a full handshake of TLS 1.3, for as many connections; with 0 no session of "
        "TLS 1.3 is resumed.",
        examples=[2],
    )
    hsts: HstsItem = Field(
        None,
        description="Send `Strict-Transport-Security` in every response, for this long. A table may add "
        "`include_subdomains` and `preload`.",
        examples=["365d", {"max_age": "365d", "include_subdomains": True}],
    )
    offload: Annotated[str, shapes.choice("auto", "always", "never")] = Field(
        "auto",
        description='Where handshakes are computed. "auto" hands those with RSA keys longer than 2048 bits to the '
        "threads (`server.threads`), and those with shorter ones and ECDSA keys when more come at once than the event "
        'loop has time for; "always" and "never" mean all of them.',
        examples=["auto"],
    )
    client_auth: ClientAuth = Field(
        "none",
        description='Whether clients are asked for a certificate. With "optional" one that is shown must be good, with '
        '"required" there is no connection without one.',
        examples=["required"],
    )
    client_ca: FilePath | None = Field(
        None, description="PEM file with the authorities whose client certificates are accepted.", examples=["ca.pem"]
    )
    client_crl: FilePath | None = Field(
        None,
        description="File with the certificate revocation lists of these authorities: any number of them in PEM, or "
        "one in DER. Clients of an issuer that has no valid list there are refused.",
        examples=["revoked.pem"],
    )
    hosts: Items[TlsHosts] = Field((), description="Names with rules of their own.")


class Listener(Section):
    """An address that clients connect to. At least one is needed."""

    bind: BindAddress = Field(
        description='The address; port 0 lets the system choose, "[::]:PORT" takes IPv4 too.',
        examples=["0.0.0.0:8443"],
    )
    proxy_protocol: Flag = Field(
        False,
        description="Every connection begins with a header of the PROXY protocol (version 1 or 2), and its client is "
        "the one named there. Who is not in `server.trusted_proxies` is closed, and so is who sends anything else.",
        examples=[True],
    )
    https_redirect: HttpsRedirect = Field(
        None,
        description="Send every request on to https with 308: true for port 443, or the port.",
        examples=[True],
    )
    tls: Tls | None = Field(None, description="TLS at this listener.")


class RouteHttp(Section):
    """Holds for the requests of one route in place of `[http]`. What is left out is as it stands there. A head must
    keep within `[http]` before its route is known, so its bounds can only be tighter here."""

    max_request_line: MaxRequestLine | None = Field(None, description="As in `[http]`.", examples=["2KiB"])
    max_head: MaxHead | None = Field(None, description="As in `[http]`.", examples=["8KiB"])
    max_fields: MaxFields | None = Field(None, description="As in `[http]`.", examples=[50])
    max_body: MaxBody | None = Field(None, description="As in `[http]`.", examples=["1GiB"])
    max_requests: MaxRequests | None = Field(
        None, description="Once its connection has seen so many, a request of this route is the last.", examples=[100]
    )
    min_body_rate: BodyRate | None = Field(None, description="As in `[http]`.", examples=["1KiB"])
    min_body_grace: Grace | None = Field(None, description="As in `[http]`.", examples=["10s"])
    trace: Flag | None = Field(None, description="As in `[http]`.", examples=[True])


class RouteTimeouts(Section):
    """Holds for the requests of one route in place of `[timeouts]`. What is left out is as it stands there."""

    request_body: Timeout | None = Field(None, description="As in `[timeouts]`.", examples=["30s"])
    response_write: Timeout | None = Field(None, description="As in `[timeouts]`.", examples=["30s"])
    upstream_response: Timeout | None = Field(None, description="As in `[timeouts]`.", examples=["5m"])
    upstream_body: Timeout | None = Field(None, description="As in `[timeouts]`.", examples=["5m"])
    tunnel_idle: Timeout | None = Field(None, description="As in `[timeouts]`.", examples=["1h"])


class Route(Section):
    """Which upstream answers a request. The most specific route wins: an exact host before a wildcard before none,
    then the longest path. With a single upstream and no routes, everything goes there."""

    host: RouteHost | None = Field(
        None,
        description='The host asked for, without port; "*.example.com" is every name below. Left out: any host.',
        examples=["api.example.com"],
    )
    path: RoutePath = Field("/", description="What the path of a request starts with.", examples=["/v1/"])
    upstream: Text = Field(description="The name of the upstream.", examples=["api"])
    upstream_host: UpstreamHost = Field(
        "keep",
        description='The `Host` that the upstream is sent: "keep" is the client\'s, "server" the one in the URL of the '
        "server, any other value is the Host itself. `X-Forwarded-Host` says the client's in any case.",
        examples=["internal.example.com"],
    )
    limits: RouteLimits = Field(default_factory=RouteLimits, description="Limits of this route.")
    http: RouteHttp = Field(default_factory=RouteHttp, description="Bounds of this route's messages.")
    timeouts: RouteTimeouts = Field(default_factory=RouteTimeouts, description="Timeouts of this route.")
    errors: Errors = Field(
        default_factory=Errors, description="Error pages of this route; they go before those of `[errors]`."
    )


class Health(Section):
    """Probes that take a server out of rotation."""

    path: RoutePath = Field("/", description="The path that is asked for.", examples=["/healthz"])
    interval: Timeout = Field(5.0, description="Time between two probes.", examples=["5s"])


class Upstream(Section):
    """A named group of servers that answer the same requests. At least one upstream is needed."""

    servers: SomeItems[ServerItem] = Field(
        description="URLs without a path, or tables with `url` and `weight` (1 to 1000, how often the server is "
        "picked compared with the others).",
        examples=[["http://10.0.0.5:9000", {"url": "https://10.0.0.6:9443", "weight": 2}]],
    )
    balance: Annotated[
        str,
        shapes.choice("round_robin", "least_requests", "random_two", "hash"),
        NotYet("round_robin", '`balance` other than "round_robin"'),
    ] = Field("round_robin", description="How the next server is picked.", examples=["round_robin"])
    max_connections: Annotated[int, shapes.whole(1, 65_535)] = Field(
        256, description="Open connections to each server.", examples=[256]
    )
    max_idle: Annotated[int, shapes.whole(0, 65_535)] = Field(
        256,
        description="Unused connections kept open to each server, until `timeouts.upstream_idle`; 0 keeps none. "
        "Fewer than there are requests at a time means that connections are closed and opened again under load.",
        examples=[32],
    )
    ca: FilePath | None = Field(
        None,
        description="PEM file with the authorities that https servers are checked against, in place of the system's.",
        examples=["internal-ca.pem"],
    )
    verify: Flag = Field(
        True,
        description="Check the certificates of https servers, names included. With false whoever sits in between can "
        "read and change everything; each start logs a warning.",
        examples=[True],
    )
    server_name: HostName | None = Field(
        None,
        description="The name that https servers are asked for (SNI) and that their certificates must be for, in place "
        "of the host in their URLs. An IP address is looked for in the certificate and not sent.",
        examples=["api.internal.example"],
    )
    client_certificate: Certificate | None = Field(
        None, description="Shown to https servers that ask for a client certificate."
    )
    tls_min_version: Annotated[str, shapes.choice("1.2", "1.3")] = Field(
        "1.2", description="The oldest TLS version that https servers may use.", examples=["1.3"]
    )
    proxy_protocol: Annotated[str | None, shapes.choice("v1", "v2").or_off()] = Field(
        None,
        description="Begin each connection to a server with a header of the PROXY protocol that names the client, in "
        "this version. A connection then serves one client only.",
        examples=["v2"],
    )
    health: Annotated[Health | None, NotYet(None, "`health`")] = Field(None, description="Active health checks.")


class Middleware(Section):
    """User code around every request, in the order of the file."""

    use: ClassName = Field(
        description='The class as "package.module:Class".', examples=["my_package.auth:RequireToken"]
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments that the class is called with.",
        examples=[{"header": "x-token"}],
        repr=False,
    )


class Admin(Section):
    """Metrics, status and dashboard."""

    bind: BindAddress = Field(description="The address of the admin listener.", examples=["127.0.0.1:9900"])


class Logging(Section):
    """Log lines go to standard output, except where `access_file` says otherwise."""

    level: Annotated[str, shapes.choice("debug", "info", "warning", "error")] = Field(
        "info", description="The least important lines that are written.", examples=["info"]
    )
    format: Annotated[str, shapes.choice("console", "json")] = Field(
        "console", description="Lines for people, or one JSON object a line.", examples=["json"]
    )
    access: Flag = Field(
        True,
        description="Write a line for every request.",
        examples=[True],
    )
    access_file: FilePath | None = Field(
        None,
        description="A file for the lines about requests, apart from the others.",
        examples=["access.log"],
    )
