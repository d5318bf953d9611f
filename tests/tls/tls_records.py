"""A TLS 1.3 client whose records are made here, one by one: for what no library would send.

The handshake is Python's own; then its traffic secret (from the key log, RFC 8446 section 7.1) makes records of any
type and number.
"""

from __future__ import annotations

import ssl
import struct
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

APPLICATION, HANDSHAKE, ALERT = 23, 22, 21
KEY_UPDATE = b"\x18\x00\x00\x01\x00"
KEY_UPDATE_BOTH = b"\x18\x00\x00\x01\x01"  # asks the other side to do the same


class RawTls13:
    """Made over a connected blocking socket. `record` gives the next record's octets; nothing is sent by itself."""

    def __init__(self, sock, context: ssl.SSLContext, server_name: str = "localhost") -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory, "keys")
            context.keylog_filename = str(log)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            sock.sendall(outgoing.read())
            context.keylog_filename = None  # closes the file, which Windows would not remove otherwise
            lines = [line.split() for line in log.read_text("ascii").splitlines()]
        (secret,) = (words[2] for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0")
        cipher = client.cipher()[0]
        self._hash = hashes.SHA384() if cipher.endswith("SHA384") else hashes.SHA256()
        self._key_length = 16 if "AES_128" in cipher else 32
        assert "AES" in cipher
        self._take(bytes.fromhex(secret))

    def _take(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = AESGCM(self._expand(b"key", self._key_length))
        self._iv = int.from_bytes(self._expand(b"iv", 12))
        self._number = 0

    def _expand(self, label: bytes, length: int) -> bytes:
        full = b"tls13 " + label
        info = struct.pack("!HB", length, len(full)) + full + b"\x00"
        return HKDFExpand(self._hash, length, info).derive(self._secret)

    def record(self, kind: int, content: bytes) -> bytes:
        """RFC 8446 section 5.2."""
        head = struct.pack("!BHH", APPLICATION, 0x0303, len(content) + 17)
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return head + self._aead.encrypt(nonce, content + bytes((kind,)), head)

    def key_update(self, *, both: bool = False) -> bytes:
        """RFC 8446 section 4.6.3; what follows is under the next key."""
        made = self.record(HANDSHAKE, KEY_UPDATE_BOTH if both else KEY_UPDATE)
        self._take(self._expand(b"traffic upd", self._hash.digest_size))
        return made
