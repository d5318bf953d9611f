"""The file that `iocproxy init` writes."""

from __future__ import annotations

# A line that starts with "#" and no blank is a setting that may be switched on by taking the "#" away: all of them at
# once must give a valid file too, which a test sees to.
_TEXT = """\
# iocproxy configuration. Check it with:  iocproxy check --config THIS-FILE
# Every key, with type, default and meaning: docs/configuration.md, or `iocproxy schema` for your editor.
# Lines that start with "#" and no blank are settings to switch on; the values are examples.

# Where clients connect. Add as many [[listeners]] as you need.
[[listeners]]
bind = "127.0.0.1:8080"             # "0.0.0.0:8080" for every IPv4 address, "[::]:8080" for IPv4 and IPv6

# Send everybody on to https, for the port of the listener below:
#https_redirect = 8443

# Behind a proxy that passes connections on and says whose they are; it has to be in trusted_proxies, below.
#proxy_protocol = true

# HTTPS: give the certificate and its key, as paths from this file's directory.
#[[listeners]]
#bind = "127.0.0.1:8443"
#[listeners.tls]
#certificates = [{ cert = "site.pem", key = "site.key" }]  # the name asked for picks, else the first
#min_version = "1.2"
#hsts = "5m"                         # Strict-Transport-Security; longer as soon as all is well, such as "365d"

# Where requests go: one or more servers that answer alike, taken in turn.
[upstreams.app]
servers = ["http://127.0.0.1:9000"]
#proxy_protocol = "v2"              # tell them of clients by a PROXY header

#[upstreams.api]
#servers = ["http://127.0.0.1:9001", { url = "http://127.0.0.1:9002", weight = 2 }]

# Which upstream answers what. Needed as soon as there is more than one; the most specific route wins.
#[[routes]]
#upstream = "app"

#[[routes]]
#host = "api.example.com"           # or "*.example.com"; left out: any host
#path = "/v1/"
#upstream = "api"
#limits.requests.rate = "20/1s"

# What one client may take. These are the defaults; `rate = false` switches a limit off.
[limits]
exempt = []                         # networks without limits, such as "127.0.0.0/8"
[limits.connections]                # checked at accept, before any TLS work
rate = "60/10s"
concurrent = 100
total = 10000                       # all clients together
[limits.requests]                   # checked per request, answered with 429
rate = "300/10s"                    # or several at once: ["50/1s", "300/10s"]
dry_run = false                     # true: only log and count what would be refused
#concurrent = 100                    # requests of one client under way at a time
#ratelimit_fields = true             # tell clients how much is left

# Further limits per request, by other things than the address: docs/limits.md
#[[limits.rules]]
#name = "sign-in"
#methods = ["POST"]
#rate = "20/1m"
#key = ["address", "path:1"]

# How long things may take; every state of a connection has such a bound.
#[timeouts]
#connect = "5s"
#upstream_response = "60s"
#keep_alive = "75s"

#[server]
#threads = 4
#drain_timeout = "10s"              # for requests in flight when the proxy stops
#trusted_proxies = ["10.0.0.0/8"]   # proxies in front of this one whose X-Forwarded-* fields are believed

# Your own code around every request.
#[[middleware]]
#use = "my_package.auth:RequireToken"
#options = { header = "x-token" }

[logging]
level = "info"
format = "console"                  # or "json"
access = true                       # a line for every request
#access_file = "access.log"
"""


def example_toml() -> str:
    """A commented configuration to start from: valid as it is, and with every commented setting switched on."""
    return _TEXT
