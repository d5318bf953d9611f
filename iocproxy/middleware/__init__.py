"""What happens around every connection and request: the built-in limits and the access log, then user code.

A middleware is an object with any of these methods. Each may be a plain method, which runs inline, or `async def`,
which is awaited while the connection or exchange waits.

* ``on_connect(client)``: before any byte is read and before TLS. False refuses the connection.
* ``on_request(request)``: after the head. Returning a `Response` answers the client at once.
* ``on_response(request, response)``: before an upstream's response head goes to the client; may change it.
* ``on_complete(record)``: after the request has ended, however it ended.
* ``on_disconnect(client)``: after a connection that its `on_connect` let in is gone (plain methods only).
"""

from iocproxy.middleware.chain import Chain
from iocproxy.middleware.loader import load_middleware

__all__ = ["Chain", "load_middleware"]
