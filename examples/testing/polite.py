"""A client that comes back when it is told to, and not before."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import urlopen


def fetch(
    url: str,
    *,
    tries: int = 3,
    sleep: Callable[[float], object] = time.sleep,
    context: ssl.SSLContext | None = None,
) -> bytes:
    """The body at `url`. Waits and tries again where the server says when; raises HTTPError in all other cases."""
    for left in reversed(range(tries)):
        try:
            with urlopen(url, context=context) as response:
                body: bytes = response.read()
                return body
        except HTTPError as error:
            wait = error.headers.get("Retry-After", "")
            if not left or error.code not in {429, 503} or not wait.isdigit():
                raise
            error.close()
            sleep(int(wait))
    raise ValueError(f"at least one try, not {tries}")
