"""KEKs that keepers push (FORMAT.md section 18.1)."""

import struct

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from . import hpke
from .cluster import MAX_DOCUMENT, Fields, ascending, signature, start, text, verifies
from .errors import Denied
from .header import demand

WANT, KEK = b"VMCRYPTW", b"VMCRYPTK"
SIGNED_WANT, SIGNED_KEK = b"vmcryptfs cluster want 1\0", b"vmcryptfs cluster kek 1\0"
KEK_INFO = b"vmcryptfs kek 1"
REFUSALS = range(16, 21)


def long_text(value: str) -> bytes:
    """A text with a length of two bytes."""
    return struct.pack("<H", len(value.encode())) + value.encode()


def wish_of(reference: bytes, key: str) -> bytes:
    """A wish for a KEK that there is."""
    return b"\x01" + reference + long_text(key)


def wish_new(reference: bytes, vm: bytes, name: str) -> bytes:
    """A wish for a new KEK."""
    return b"\x02" + reference + vm + text(name)


def encode_want(cluster: bytes, host: bytes, provider: str, wishes: list[bytes], seed: bytes) -> bytes:
    """A want, signed by its host."""
    content = start(WANT) + cluster + host + text(provider) + struct.pack("<H", len(wishes)) + b"".join(wishes)
    return content + signature(seed, SIGNED_WANT + content)


def decode_want(data: bytes, cluster: bytes, host: bytes, provider: str, sign_key: bytes) -> list[tuple[bytes, ...]]:
    """The wishes of a want, each its reference and what is wanted."""
    demand(len(data) <= MAX_DOCUMENT, "longer than a want may be")
    fields = Fields(data, WANT)
    place = (fields.take(16), fields.take(16), fields.name())
    count = fields.number(2)
    demand(1 <= count <= 1024, f"{count} wishes")
    wishes: list[tuple[bytes, ...]] = []
    for _ in range(count):
        kind, reference = fields.number(1), fields.take(16)
        demand(kind in (1, 2), f"a wish of kind {kind}")
        wanted = (fields.take(fields.number(2)),) if kind == 1 else (fields.take(16), fields.take(fields.number(1)))
        demand(is_text(wanted[-1]), "not UTF-8")
        wishes.append((reference, *wanted))
    content = data[:fields.at]
    signed = fields.take(64)
    fields.end()
    ascending([wish[0] for wish in wishes], "references")
    demand(wishes[0][0] != bytes(16), "a reference of zeros")
    if place != (cluster, host, provider) or not verifies(sign_key, SIGNED_WANT + content, signed):
        raise Denied("not by this host")
    return wishes


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def kek_start(ids: tuple[bytes, bytes, bytes, bytes], reference: bytes, outcome: int, key: str) -> bytes:
    """What a KEK's record says in the clear; `ids` are cluster, keeper, host, provider."""
    return start(KEK) + b"".join(ids) + reference + bytes([outcome]) + long_text(key)


def seal_kek(clear: bytes, public_key: bytes, ephemeral: EllipticCurvePrivateKey, kek: bytes, seed: bytes) -> bytes:
    """A KEK, sealed to a host and signed by a keeper."""
    content = clear + hpke.seal(public_key, ephemeral, KEK_INFO, clear, kek)
    return content + signature(seed, SIGNED_KEK + content)


def refuse_kek(clear: bytes, why: str, seed: bytes) -> bytes:
    """Why there is no KEK, signed by a keeper."""
    content = clear + long_text(why)
    return content + signature(seed, SIGNED_KEK + content)


def decode_kek(data: bytes, keepers: dict[bytes, bytes], private: EllipticCurvePrivateKey) -> tuple[int, bytes]:
    """The outcome, and the KEK or why there is none. `keepers` has their keys by UUID."""
    demand(len(data) <= 4096, "longer than a KEK may be")
    fields = Fields(data, KEK)
    _, keeper, _, _, _ = (fields.take(16) for _ in range(5))
    outcome, key = fields.number(1), fields.take(fields.number(2))
    clear = data[:fields.at]
    demand(is_text(key), "a key id that is not UTF-8")
    if outcome in (1, 2):
        demand(len(key) > 0, "a KEK without a key id")
        sealed = fields.take(65 + 48)
    else:
        demand(outcome in REFUSALS, f"outcome {outcome}")
        sealed = fields.take(fields.number(2))
        demand(len(sealed) <= 1024 and is_text(sealed), "why")
    content = data[:fields.at]
    signed = fields.take(64)
    fields.end()
    if keeper not in keepers or not verifies(keepers[keeper], SIGNED_KEK + content, signed):
        raise Denied("not by a keeper")
    return outcome, hpke.unseal(private, sealed, KEK_INFO, clear) if outcome in (1, 2) else sealed
