"""KEKs that a host keeps, sealed by its TPM (FORMAT.md section 21)."""

import struct
from dataclasses import dataclass

from . import xaes
from .cluster import Fields, start, text
from .errors import KeyRejected
from .header import demand
from .push import is_text, long_text

MAGIC = b"VMCRYPTN"
MAX_LEN, MAX_KEPT = 1 << 24, 16384


@dataclass(frozen=True)
class Kept:
    """A KEK that is kept."""

    provider: bytes
    name: str
    key_id: str
    flag: int
    begun: int
    kek: bytes

    def encode(self) -> bytes:
        """As it is before it is sealed."""
        return (self.provider + text(self.name) + long_text(self.key_id) + bytes([self.flag])
                + struct.pack("<Q", self.begun) + self.kek)


def clear_of(keks: list[Kept]) -> bytes:
    """What is sealed."""
    return struct.pack("<H", len(keks)) + b"".join(kept.encode() for kept in keks)


def seal(cluster: bytes, host: bytes, sealed_key: bytes, key: bytes, nonce: bytes, clear: bytes) -> bytes:
    """The file."""
    head = start(MAGIC) + cluster + host + struct.pack("<H", len(sealed_key)) + sealed_key
    cipher, tag = xaes.seal(key, nonce, clear, head)
    return head + nonce + cipher + tag


def decode(data: bytes, key: bytes) -> tuple[bytes, bytes, bytes, list[Kept]]:
    """Cluster, host, the sealed key, and the KEKs."""
    demand(len(data) <= MAX_LEN, "longer than such a file may be")
    fields = Fields(data, MAGIC)
    cluster, host = fields.take(16), fields.take(16)
    sealed_key = fields.take(fields.number(2))
    head = data[:fields.at]
    nonce = fields.take(xaes.NONCE_LEN)
    rest = data[fields.at:]
    demand(len(rest) >= xaes.TAG_LEN, "the file ends early")
    clear = xaes.open_(key, nonce, rest[:-xaes.TAG_LEN], rest[-xaes.TAG_LEN:], head)
    if clear is None:
        raise KeyRejected("sealed by another key, or changed")
    return cluster, host, sealed_key, entries(clear)


def entries(clear: bytes) -> list[Kept]:
    """The KEKs of what was sealed."""
    fields = Fields(start(MAGIC) + clear, MAGIC)
    keks = []
    for _ in range(fields.number(2)):
        provider, name = fields.take(16), fields.name()
        key_id = fields.take(fields.number(2))
        demand(1 <= len(key_id) <= 512 and is_text(key_id), "a key id")
        flag = fields.number(1)
        demand(flag in (1, 2), f"{flag}, expected 1 or 2")
        keks.append(Kept(provider, name, key_id.decode(), flag, fields.number(8), fields.take(32)))
    fields.end()
    places = [(kept.provider, kept.key_id.encode()) for kept in keks]
    demand(len(keks) <= MAX_KEPT and all(a < b for a, b in zip(places, places[1:], strict=False)), "not in ascending order")
    return keks
