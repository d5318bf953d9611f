"""Bad configurations: every fault, in the order of the file, in words for a person."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from iocproxy.config import Config, Rate, Server, load_config, parse_config
from iocproxy.errors import ConfigError, Fault

LISTENERS = 'listeners = [{ bind = "127.0.0.1:0" }]\n'
UPSTREAMS = 'upstreams.app.servers = ["http://app"]\n'
LEAST = LISTENERS + UPSTREAMS

BIND = 'must be an address "HOST:PORT", such as "127.0.0.1:80", "0.0.0.0:80" (all of IPv4) or "[::]:80" (IPv4 and IPv6)'
UPSTREAM_HOST = 'must be "keep", "server", or a host with or without a port, such as "internal.example.com"'
STATUS = 'must be a status from 400 to 599, "4xx" or "5xx"'
PAGE = "must be the path of a file that ends in .html, .json or .txt"
URL = 'must be a URL "http://HOST[:PORT]" or "https://HOST[:PORT]"'
BODY = 'must be a size from 0B to 1048576GiB, such as "8KiB", or a number of bytes, or false for none'
TIMEOUT = 'must be a duration from 1ms to 7d, such as "5s", or a number of seconds'

WHOSE = "`client_ca` says whose certificates"
UNASKED = (
    'beside `client_auth = "none"`; '
    '`client_auth` must be "optional" or "required", here or for hosts without one of their own'
)
NOT_BESIDE_NONE = 'beside `client_auth = "none"`; must go, or `client_auth` be "optional" or "required"'
HOST = 'a host name, such as "example.com" or "*.example.com"'
NO_ADDRESS = "TLS clients ask for names, never for addresses"
FIELD = 'the name of a header field, such as "X-Client-Subject"'
MEANING = "a field that has a meaning of its own"

# Expected lines are what `str(fault)` says behind the file's name: LINE: KEY PATH: FOUND; ALLOWED.
BAD: dict[str, tuple[str, list[str]]] = {
    "nothing in it": (
        "",
        [
            "listeners: missing; must be an array, each a table",
            "upstreams: missing; must be a table of tables, each under its name",
        ],
    ),
    "empty": (
        "listeners = []\n[upstreams]\n",
        [
            "1: listeners: an empty array; must have at least one",
            "2: upstreams: an empty table; must have at least one",
        ],
    ),
    "https_redirect": (
        UPSTREAMS + "[[listeners]]\nbind = '0.0.0.0:80'\nhttps_redirect = 80\n"
        "[[listeners]]\nbind = '0.0.0.0:81'\nhttps_redirect = 'yes'\n"
        "[[listeners]]\nbind = '0.0.0.0:82'\nhttps_redirect = 65536\n"
        "[[listeners]]\nbind = '0.0.0.0:443'\nhttps_redirect = true\n"
        "[listeners.tls]\ncertificates = [{ cert = 'a', key = 'b' }]\n",
        [
            "4: listeners[0].https_redirect: 80; must be another port than that of `bind`",
            '7: listeners[1].https_redirect: "yes"; must be true, false, or the port of https if it is not 443',
            (
                "10: listeners[2].https_redirect: 65536; the port must be 1 to 65535; must be true, false, or the port "
                "of https if it is not 443"
            ),
            "13: listeners[3].https_redirect: `https_redirect` beside `tls`; only plain HTTP is sent on",
        ],
    ),
    "renewal of certificates": (
        LEAST + "[server]\ncertificate_check = '10ms'\ncertificate_warning = 14\n",
        [
            (
                '4: server.certificate_check: "10ms"; must be a duration from 50ms to 1h, such as "5s", or a number of '
                "seconds, or false for none"
            ),
            (
                '5: server.certificate_warning: 14; must be a duration from 1h to 365d, such as "5s", or a number of '
                "seconds, or false for none"
            ),
        ],
    ),
    "the policy of a TLS listener": (
        UPSTREAMS + "[[listeners]]\nbind = '0.0.0.0:443'\n[listeners.tls]\n"
        "certificates = [{ cert = 'a', key = 'b' }]\nmin_version = '1.3'\nciphers = 'ECDHE+AESGCM'\n"
        "alpn = ['http/1.1', 'h2', 'http/1.1', 'spdy']\nnum_tickets = 9\nhsts = true\n",
        [
            (
                '7: listeners[0].tls.ciphers: `ciphers` beside `min_version = "1.3"`; one of the two: the list is for '
                "TLS 1.2, and the suites of TLS 1.3 are OpenSSL's own"
            ),
            (
                '8: listeners[0].tls.alpn[1]: "h2"; HTTP/2 and HTTP/3 are not available yet; must be "http/1.1" or '
                '"http/1.0"'
            ),
            '8: listeners[0].tls.alpn[3]: "spdy"; must be "http/1.1" or "http/1.0"',
            '8: listeners[0].tls.alpn[2]: "http/1.1"; each protocol may stand once',
            "9: listeners[0].tls.num_tickets: 9; must be a whole number from 0 to 8",
            (
                '10: listeners[0].tls.hsts: true; must be false, a duration, such as "365d", or a table with '
                "`max_age`, `include_subdomains` and `preload`"
            ),
        ],
    ),
    "hsts": (
        UPSTREAMS + "[[listeners]]\nbind = '0.0.0.0:443'\n[listeners.tls]\n"
        "certificates = [{ cert = 'a', key = 'b' }]\n[listeners.tls.hsts]\nmax-age = '1d'\npreload = 1\n",
        [
            (
                '6: listeners[0].tls.hsts.max_age: missing; must be a duration from 0s to 3650d, such as "5s", or a '
                "number of seconds"
            ),
            (
                '7: listeners[0].tls.hsts.max-age: unknown key; did you mean "max_age"? allowed: max_age, '
                "include_subdomains, preload"
            ),
            "8: listeners[0].tls.hsts.preload: 1; must be true or false",
        ],
    ),
    "hsts to be preloaded": (
        UPSTREAMS + "[[listeners]]\nbind = '0.0.0.0:443'\n[listeners.tls]\n"
        "certificates = [{ cert = 'a', key = 'b' }]\n"
        "hsts = { max_age = '364d', include_subdomains = true, preload = true }\n",
        [
            (
                "6: listeners[0].tls.hsts: a table; `preload` needs `include_subdomains = true` and a `max_age` of at "
                "least 365d"
            ),
        ],
    ),
    "unknown keys": (
        LEAST + "[sever]\n[timeouts]\nconect = '5s'\nzzz = 1\n[http]\nheads = 1\n",
        [
            (
                '3: sever: unknown key; did you mean "server"? allowed: server, timeouts, http, forwarding, errors, '
                "listeners, limits, routes, upstreams, middleware, admin, logging"
            ),
            (
                '5: timeouts.conect: unknown key; did you mean "connect"? allowed: request_header, request_body, '
                "response_write, keep_alive, tls_handshake, connect, upstream_response, upstream_body, upstream_idle, "
                "tunnel_idle"
            ),
            (
                "6: timeouts.zzz: unknown key; allowed: request_header, request_body, response_write, keep_alive, "
                "tls_handshake, connect, upstream_response, upstream_body, upstream_idle, tunnel_idle"
            ),
            (
                '8: http.heads: unknown key; did you mean "max_head"? allowed: max_request_line, max_head, max_fields, '
                "max_body, max_requests, min_body_rate, min_body_grace, trace"
            ),
        ],
    ),
    "bounds of a route's messages": (
        LEAST
        + """
[http]
max_head = "16KiB"
max_body = "1PiB"
min_body_rate = -1
[[routes]]
upstream = "app"
http.max_head = "17KiB"
http.max_fields = 101
http.max_request_line = "1KiB"
http.max_body = true
http.max_requests = 0
timeouts.connect = "1s"
timeouts.request_body = "0s"
""",
        [
            f'6: http.max_body: "1PiB"; {BODY}',
            (
                '7: http.min_body_rate: -1; must be a size from 1B to 1GiB, such as "8KiB", or a number of bytes, '
                "or false for none"
            ),
            "10: routes[0].http.max_head: 17408; at most what http.max_head allows, which is 16384",
            "11: routes[0].http.max_fields: 101; at most what http.max_fields allows, which is 100",
            f"13: routes[0].http.max_body: true; {BODY}",
            "14: routes[0].http.max_requests: 0; must be a whole number from 1 to 1000000000, or false for none",
            (
                "15: routes[0].timeouts.connect: unknown key; allowed: request_body, response_write, "
                "upstream_response, upstream_body, tunnel_idle"
            ),
            f'16: routes[0].timeouts.request_body: "0s"; {TIMEOUT}',
        ],
    ),
    "wrong types": (
        LEAST
        + """
server = 1
logging = [1]
[timeouts]
connect = "5"
keep_alive = true
tls_handshake = "0s"
upstream_body = 1979-05-27
[http]
max_head = "32KB"
max_fields = 1.0
[limits]
exempt = "127.0.0.0/8"
ipv4_prefix = 33
[limits.connections]
rate = true
concurrent = 0
dry_run = "yes"
[[middleware]]
use = "nothing"
options = "x"
""",
        [
            "4: server: 1; must be a table",
            "5: logging: an array; must be a table",
            f'7: timeouts.connect: "5"; {TIMEOUT}',
            f"8: timeouts.keep_alive: true; {TIMEOUT}",
            f'9: timeouts.tls_handshake: "0s"; {TIMEOUT}',
            f"10: timeouts.upstream_body: 1979-05-27; {TIMEOUT}",
            '12: http.max_head: "32KB"; must be a size from 256B to 1MiB, such as "8KiB", or a number of bytes',
            "13: http.max_fields: 1.0; must be a whole number from 1 to 10000",
            '15: limits.exempt: "127.0.0.0/8"; must be an array',
            "16: limits.ipv4_prefix: 33; must be a whole number from 1 to 32",
            (
                '18: limits.connections.rate: true; must be a rate "COUNT/DURATION", such as "300/10s", an array of '
                "them, or false for none"
            ),
            "19: limits.connections.concurrent: 0; must be a whole number from 1 to 1000000, or false for none",
            '20: limits.connections.dry_run: "yes"; must be true or false',
            '22: middleware[0].use: "nothing"; must be a class as "package.module:Class"',
            '23: middleware[0].options: "x"; must be a table',
        ],
    ),
    "listeners": (
        UPSTREAMS
        + """
[[listeners]]
bind = "*:80"
[[listeners]]
[[listeners]]
bind = "LOCALHOST:80"
[listeners.tls]
min_version = 1.2
certificates = [
  { cert = "a.pem" },

  { cert = "b.pem", kay = "b.key" },
  "c.pem",
]
[[listeners]]
bind = "localhost:80"
tls.certificates = []
[[listeners]]
bind = "localhost:0"
[[listeners]]
bind = "localhost:0"
tls = true
""",
        [
            f'4: listeners[0].bind: "*:80"; "*" could mean IPv4 or both; {BIND}',
            f"5: listeners[1].bind: missing; {BIND}",
            '9: listeners[2].tls.min_version: 1.2; must be "1.2" or "1.3"',
            "11: listeners[2].tls.certificates[0].key: missing; must be a file's path",
            "13: listeners[2].tls.certificates[1].key: missing; must be a file's path",
            ('13: listeners[2].tls.certificates[1].kay: unknown key; did you mean "key"? allowed: cert, key, password'),
            '14: listeners[2].tls.certificates[2]: "c.pem"; must be a table',
            '17: listeners[3].bind: "localhost:80"; must be another address than listeners[2].bind',
            "18: listeners[3].tls.certificates: an empty array; must have at least one",
            "23: listeners[5].tls: true; must be a table",
        ],
    ),
    "upstreams": (
        LISTENERS
        + """
[upstreams."my app"]
servers = []
[upstreams.b]
[upstreams.c]
servers = [
  "http://user:secret@host",
  { url = "http://host/path", wieght = 1 },
  { weight = 0 },
  5,
  "http://same", "http://SAME:80/",
]
max_connections = 0
ca = "x.pem"
verify = false
[[routes]]
upstream = "b"
""",
        [
            (
                '3: upstreams."my app": "my app"; must be a name of 1 to 64 letters, digits, dots, dashes and '
                "underscores"
            ),
            '4: upstreams."my app".servers: an empty array; must have at least one',
            "5: upstreams.b.servers: missing; must be an array, each a URL, or a table with `url` and `weight`",
            f'8: upstreams.c.servers[0]: "http://…@host"; a user name or password in it; {URL}',
            f'9: upstreams.c.servers[1].url: "http://host/path"; a path in it; {URL}',
            '9: upstreams.c.servers[1].wieght: unknown key; did you mean "weight"? allowed: url, weight',
            f"10: upstreams.c.servers[2].url: missing; {URL}",
            "10: upstreams.c.servers[2].weight: 0; must be a whole number from 1 to 1000",
            "11: upstreams.c.servers[3]: 5; must be a URL, or a table with `url` and `weight`",
            '12: upstreams.c.servers[5]: "http://same:80"; the same server as upstreams.c.servers[4]; use `weight`',
            "14: upstreams.c.max_connections: 0; must be a whole number from 1 to 65535",
            "15: upstreams.c.ca: `ca` beside `verify = false`; one of the two: nothing is checked against `ca`",
        ],
    ),
    "what has no effect": (
        LISTENERS
        + """
[upstreams.plain]
servers = ["http://a", { url = "http://b" }]
ca = "x.pem"
verify = false
[upstreams.fine]
servers = ["http://a"]
verify = true
[upstreams.mixed]
servers = ["http://a", "https://b"]
verify = false
[[routes]]
upstream = "plain"
[logging]
access = false
access_file = "access.log"
""",
        [
            "5: upstreams.plain.ca: `ca` without an https server; only https servers are checked",
            "6: upstreams.plain.verify: `verify` without an https server; only https servers are checked",
            "17: logging.access_file: `access_file` beside `access = false`; one of the two: no request is logged",
        ],
    ),
    "several upstreams and no routes": (
        LEAST + '[upstreams.b]\nservers = ["http://b"]\n',
        ["2: upstreams: 2 upstreams and no routes; [[routes]] must say which one answers what"],
    ),
    "routes": (
        LEAST
        + """
[[routes]]
upstream = "ap"
[[routes]]
host = "Example.com"
path = "/a"
upstream = "app"
[[routes]]
host = "example.com:80"
path = "v1?x"
upstream = "app"
[[routes]]
path = "/a"
host = "example.COM"
upstream = "app"
limits.requests.dry_run = true
[[routes]]
upstream = "app"
limits.connections.rate = "1/1s"
""",
        [
            '5: routes[0].upstream: no upstream "ap"; did you mean "app"? upstreams: app',
            (
                '11: routes[2].host: "example.com:80"; a host is matched without its port; '
                'must be a host name, such as "example.com" or "*.example.com"'
            ),
            '12: routes[2].path: "v1?x"; it must start with "/"; must be a path prefix, such as "/api/"',
            '14: routes[3]: "example.com /a"; the same host and path as routes[1]; each pair may stand once',
            (
                '18: routes[3].limits.requests.rate: missing; must be a rate "COUNT/DURATION", such as "300/10s", an '
                "array of them, or false for none"
            ),
            '19: routes[4]: "any host /"; the same host and path as routes[0]; each pair may stand once',
            "21: routes[4].limits.connections: unknown key; allowed: cost, requests, rules, bandwidth",
        ],
    ),
    "forwarding": (
        LEAST
        + """[forwarding]
forwarded = "yes"
request_id = true
request_ids = "make"
[[routes]]
upstream = "app"
upstream_host = "http://a.test"
[[routes]]
path = "/a"
upstream = "app"
upstream_host = "SERVER"
[[routes]]
path = "/b"
upstream = "app"
upstream_host = "a.test:0"
""",
        [
            '4: forwarding.forwarded: "yes"; must be true or false',
            '5: forwarding.request_id: true; must be "off", "make" or "keep"',
            (
                '6: forwarding.request_ids: unknown key; did you mean "request_id"? '
                "allowed: forwarded, request_id, client_certificate"
            ),
            f'9: routes[0].upstream_host: "http://a.test"; a slash in it; {UPSTREAM_HOST}',
            f'13: routes[1].upstream_host: "SERVER"; {UPSTREAM_HOST}',
            f'17: routes[2].upstream_host: "a.test:0"; the port must be 1 to 65535; {UPSTREAM_HOST}',
        ],
    ),
    "error pages": (
        LEAST
        + """[errors.pages]
404 = "404.htm"
5xx = "5xx"
"4XX" = "4xx.html"
399 = "399.html"
600 = "600.html"
502 = ""
503 = ["503.html"]
[[routes]]
upstream = "app"
errors.pages = "404.html"
[[routes]]
path = "/a"
upstream = "app"
errors = { page = { 404 = "a.html" } }
[[routes]]
path = "/b"
upstream = "app"
errors.pages = { 40x = "b.html", 404 = 404 }
""",
        [
            f'4: errors.pages.404: "404.htm"; {PAGE}',
            f'5: errors.pages.5xx: "5xx"; {PAGE}',
            f'6: errors.pages.4XX: "4XX"; {STATUS}',
            f'7: errors.pages.399: "399"; {STATUS}',
            f'8: errors.pages.600: "600"; {STATUS}',
            f'9: errors.pages.502: ""; {PAGE}',
            f"10: errors.pages.503: an array; {PAGE}",
            '13: routes[0].errors.pages: "404.html"; must be a table',
            '17: routes[1].errors.page: unknown key; did you mean "pages"? allowed: pages',
            f'21: routes[2].errors.pages.40x: "40x"; {STATUS}',
            f"21: routes[2].errors.pages.404: 404; {PAGE}",
        ],
    ),
    "client certificates at a listener": (
        UPSTREAMS
        + """\
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = "a", key = "b" }]
client_auth = "required"
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = "a", key = "b" }]
client_ca = "ca.pem"
client_crl = "ca.crl"
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = "a", key = "b" }]
client_auth = "sometimes"
client_ca = 1
client_crl = "ca.crl"
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = "a", key = "b" }]
client_crl = "ca.crl"
[[listeners.tls.hosts]]
names = ["a.test"]
client_auth = "required"
client_ca = "a.pem"
""",
        [
            f'6: listeners[0].tls.client_auth: "required" without `client_ca`; {WHOSE}',
            f"11: listeners[1].tls.client_ca: `client_ca` {UNASKED}",
            f"12: listeners[1].tls.client_crl: `client_crl` {UNASKED}",
            '17: listeners[2].tls.client_auth: "sometimes"; must be "none", "optional" or "required"',
            "18: listeners[2].tls.client_ca: 1; must be a file's path",
            (
                "24: listeners[3].tls.client_crl: `client_crl` without `client_ca`; "
                "lists of the authorities in `client_ca`"
            ),
            (
                "28: listeners[3].tls.hosts[0].client_ca: `client_ca` without `client_crl`; "
                "must have a `client_crl` of its own, as the listener's is of other authorities"
            ),
        ],
    ),
    "hosts with rules of their own": (
        UPSTREAMS
        + """\
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = "a", key = "b" }]
client_ca = "ca.pem"
[[listeners.tls.hosts]]
names = []
client_auth = "required"
client_ca = "own.pem"
[[listeners.tls.hosts]]
client_auth = "required"
client_ca = "own.pem"
[[listeners.tls.hosts]]
names = ["a.test", "*.A.test", "A.test"]
[[listeners.tls.hosts]]
names = ["*.a.test", "127.0.0.1", "[::1]", "*", "b.test:443", "b.test."]
min_version = "1.1"
[[listeners.tls.hosts]]
names = ["c.test"]
client_ca = "c.pem"
client_crl = "c.crl"
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = "a", key = "b" }]
[[listeners.tls.hosts]]
names = ["a.test"]
client_auth = "optional"
host = "b.test"
""",
        [
            f"6: listeners[0].tls.client_ca: `client_ca` {UNASKED}",
            "8: listeners[0].tls.hosts[0].names: an empty array; must have at least one",
            "11: listeners[0].tls.hosts[1].names: missing; must be an array, each " + HOST,
            (
                "14: listeners[0].tls.hosts[2]: hosts without rules of their own; "
                "must have one of client_auth, client_ca, client_crl, min_version"
            ),
            (
                '15: listeners[0].tls.hosts[2].names[2]: "a.test"; '
                "the same name as listeners[0].tls.hosts[2].names[0]; each may stand once"
            ),
            f'17: listeners[0].tls.hosts[3].names[1]: "127.0.0.1"; {NO_ADDRESS}; must be {HOST}',
            f'17: listeners[0].tls.hosts[3].names[2]: "[::1]"; {NO_ADDRESS}; must be {HOST}',
            f'17: listeners[0].tls.hosts[3].names[3]: "*"; leave `host` out to match every host; must be {HOST}',
            f'17: listeners[0].tls.hosts[3].names[4]: "b.test:443"; a host is matched without its port; must be {HOST}',
            f'17: listeners[0].tls.hosts[3].names[5]: "b.test."; not a host name; must be {HOST}',
            (
                '17: listeners[0].tls.hosts[3].names[0]: "*.a.test"; '
                "the same name as listeners[0].tls.hosts[2].names[1]; each may stand once"
            ),
            '18: listeners[0].tls.hosts[3].min_version: "1.1"; must be "1.2" or "1.3"',
            f"21: listeners[0].tls.hosts[4].client_ca: `client_ca` {NOT_BESIDE_NONE}",
            f"22: listeners[0].tls.hosts[4].client_crl: `client_crl` {NOT_BESIDE_NONE}",
            (
                '29: listeners[1].tls.hosts[0].client_auth: "optional" without `client_ca`; '
                "`client_ca`, here or of the listener, says whose certificates"
            ),
            (
                "30: listeners[1].tls.hosts[0].host: unknown key; "
                "allowed: names, client_auth, client_ca, client_crl, min_version"
            ),
        ],
    ),
    "names for the parts of a certificate": (
        LEAST
        + """\
[forwarding.client_certificate]
subject = "X-Client"
issuer = "Host"
serial = "x-client"
fingerprint = "X_Fingerprint"
dns = ""
email = "X-Forwarded-For"
uri = "Client-Cert"
not_after = true
rfc9440 = "X-Cert"
sha1 = "X-Sha1"
""",
        [
            f'5: forwarding.client_certificate.issuer: "Host"; {MEANING}; must be {FIELD}',
            (
                '6: forwarding.client_certificate.serial: "x-client"; '
                "must be another name than forwarding.client_certificate.subject"
            ),
            f'7: forwarding.client_certificate.fingerprint: "X_Fingerprint"; must be {FIELD}',
            f'8: forwarding.client_certificate.dns: ""; must be {FIELD}',
            f'9: forwarding.client_certificate.email: "X-Forwarded-For"; {MEANING}; must be {FIELD}',
            f'10: forwarding.client_certificate.uri: "Client-Cert"; {MEANING}; must be {FIELD}',
            f"11: forwarding.client_certificate.not_after: true; must be {FIELD}",
            '12: forwarding.client_certificate.rfc9440: "X-Cert"; must be true or false',
            (
                "13: forwarding.client_certificate.sha1: unknown key; "
                "allowed: subject, issuer, serial, fingerprint, dns, email, uri, not_after, rfc9440"
            ),
        ],
    ),
    "not available yet": (
        """
[server]
workers = "auto"
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = "a", key = "b" }]
[upstreams.app]
servers = ["http://app"]
balance = "least_requests"
[upstreams.app.health]
path = "/healthz"
[admin]
bind = "127.0.0.1:9900"
""",
        [
            '3: server.workers: "auto"; `workers` other than 1 is not available yet',
            '10: upstreams.app.balance: "least_requests"; `balance` other than "round_robin" is not available yet',
            "11: upstreams.app.health: a table; `health` is not available yet",
            "13: admin: a table; `[admin]` is not available yet",
        ],
    ),
    "the PROXY protocol": (
        """
[server]
trusted_proxies = []
[[listeners]]
bind = "127.0.0.1:0"
proxy_protocol = true
[[listeners]]
bind = "127.0.0.1:0"
proxy_protocol = "v2"
[upstreams.app]
servers = ["http://app"]
proxy_protocol = true
""",
        [
            (
                "6: listeners[0].proxy_protocol: `proxy_protocol = true` without trusted proxies; "
                "server.trusted_proxies must name the proxies whose headers are believed"
            ),
            '9: listeners[1].proxy_protocol: "v2"; must be true or false',
            '12: upstreams.app.proxy_protocol: true; must be "v1" or "v2", or false for none',
        ],
    ),
    "wrong before it is not available": (
        LEAST + '[server]\nworkers = "many"\n[limits]\nstorage = "disk"\n',
        [
            '4: server.workers: "many"; must be a whole number from 1 to 256, or "auto"',
            (
                '6: limits.storage: "disk"; must be "memory", or "redis://[USER:PASSWORD@]HOST[:PORT][/DB]", with TLS '
                '"rediss://…"'
            ),
        ],
    ),
    "a key written twice": (
        LEAST + "[server]\nthreads = 1\nthreads = 2\n",
        ["5: not TOML: Cannot overwrite a value (column 12)"],
    ),
    "a syntax error": (
        LEAST + "[server\n",
        ["3: not TOML: Expected ']' at the end of a table declaration (column 8)"],
    ),
    "an end too early": (LEAST + 'x = """\n\n', ["3: not TOML: Unterminated string (at the end)"]),
    "names that Python knows": (
        LEAST + "self = 1\nmodel_config = 2\n",
        [
            (
                "3: self: unknown key; allowed: server, timeouts, http, forwarding, errors, listeners, limits, "
                "routes, upstreams, middleware, admin, logging"
            ),
            (
                "4: model_config: unknown key; allowed: server, timeouts, http, forwarding, errors, listeners, limits, "
                "routes, upstreams, middleware, admin, logging"
            ),
        ],
    ),
}


@pytest.mark.parametrize(("text", "faults"), BAD.values(), ids=BAD.keys())
def test_bad_file(text: str, faults: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(text, "f.toml")
    assert all(str(fault).startswith("f.toml:") for fault in raised.value.faults)
    assert [str(fault).removeprefix("f.toml:").lstrip() for fault in raised.value.faults] == faults
    assert str(raised.value) == "\n".join(str(fault) for fault in raised.value.faults)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("key", ["tls", "nested"])
def test_arrays_without_end(key: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(f"{LEAST}{key} = {'[' * 100_000}")
    with pytest.raises(ConfigError):
        parse_config(f"{LEAST}{key} = {'[' * 900}{']' * 900}")


def test_a_text_without_a_name_has_lines_all_the_same() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(LEAST + "x = 1")
    (fault,) = raised.value.faults
    assert (fault.file, fault.line, fault.path) == (None, 3, "x")


def test_from_python_faults_have_key_paths_and_no_place() -> None:
    with pytest.raises(ConfigError) as raised:
        Config(
            listeners=[{"bind": "localhost:1"}, {"bind": "localhost:1"}],
            upstreams={
                "a": {"servers": [Server("ftp", "h", 1), Server("http", "h", 80), Server("http", "h", 80, 2)]},
                "b": {"servers": "http://b"},
            },
            routes=[{"upstream": "c"}],
            limits={"requests": {"rate": Rate(0, 1.0)}},
            logging={"format": "xml"},
        )
    assert [(fault.path, fault.file, fault.line) for fault in raised.value.faults] == [
        ("limits.requests.rate", None, None),
        ("upstreams.a.servers[0]", None, None),
        ("upstreams.b.servers", None, None),
        ("logging.format", None, None),
        ("listeners[1].bind", None, None),
        ("upstreams.a.servers[2]", None, None),
        ("routes[0].upstream", None, None),
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    for path in (missing, tmp_path):
        with pytest.raises(ConfigError) as raised:
            load_config(path)
        (fault,) = raised.value.faults
        assert fault.file == str(path)
        assert fault.found.startswith("cannot be read: ")


def test_encodings(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(b"\xef\xbb\xbf" + LEAST.replace("\n", "\r\n").encode())
    assert load_config(file) == parse_config(LEAST) == parse_config("\ufeff" + LEAST)
    file.write_text(LEAST, encoding="utf-16")
    with pytest.raises(ConfigError) as raised:
        load_config(str(file))
    assert [str(fault) for fault in raised.value.faults] == [f"{file}: not UTF-8; a TOML file saved as UTF-8"]


@pytest.mark.parametrize("value", [None, 0, "", "x", 1.5, True, [], [None], {}, {"x": 1}, {1: 2}, b"x", object()])
@pytest.mark.parametrize("name", list(Config.model_fields))
def test_anything_anywhere_is_a_configuration_or_a_config_error(name: str, value: Any) -> None:
    settings: dict[str, Any] = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "upstreams": {"app": {"servers": ["http://app"]}},
    }
    for given in (value, [value], {"app": value}, {"app": {"servers": value}}, [{"bind": value, "tls": value}]):
        faults: tuple[Fault, ...] = ()
        try:
            config = Config(**{**settings, name: given})
        except ConfigError as error:
            faults = error.faults
        else:
            assert config == Config(**config.model_dump())
        assert all(fault.path.startswith(name) for fault in faults)


def test_config_error_survives_pickling_of_its_faults() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config("", "f.toml")
    assert pickle.loads(pickle.dumps(raised.value.faults)) == raised.value.faults
