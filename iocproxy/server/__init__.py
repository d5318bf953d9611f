"""The composition root: a configuration becomes a running proxy (`proxy`).

`material` loads what the configuration names (certificates, authorities, user classes), `assembly` puts the parts
together, `admission` decides about each accepted connection. No signals, no `sys.exit`, no logging set-up here.
"""

from iocproxy.server.proxy import Proxy

__all__ = ["Proxy"]
