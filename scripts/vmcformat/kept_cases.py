"""Vectors of KEKs that a host keeps, sealed by its TPM."""

from . import kept
from .cluster_cases import CLUSTER, CORP, END, HOSTS, uuid
from .header_bad import flipped
from .kept import Kept
from .native import SealedShare, encode_sealed_share
from .vectorfile import VectorFile, derive, derive_uuid

HOST = HOSTS[1].uuid
KEY, NONCE = derive("key of kept KEKs", 32), derive("nonce of kept KEKs", 24)
SEALED_KEY = encode_sealed_share(SealedShare(derive_uuid("key of kept KEKs"), derive("root key", 64), 1 << 7,
                                             derive("private", 174), derive("public", 78)))
KEKS = [Kept(CORP.uuid, "corp", f"key-{n}", n, END + n, derive(f"kept KEK {n}", 32)) for n in (1, 2)]


def sealed(clear: bytes, key: bytes = KEY) -> bytes:
    """A file of this host."""
    return kept.seal(CLUSTER, HOST, SEALED_KEY, key, NONCE, clear)


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    clear = kept.clear_of(KEKS)
    good = sealed(clear)
    at_flag = 2 + 16 + 5 + 2 + 5
    cases = {
        "good": ("ok", "two KEKs, of which the second only unwraps", good),
        "none": ("ok", "no KEK", sealed(kept.clear_of([]))),
        "other-key": ("key-rejected", "sealed by another key", sealed(clear, derive("another key", 32))),
        "host-flipped": ("key-rejected", "one bit of the host flipped", flipped(good, 32)),
        "sealed-key-flipped": ("key-rejected", "one bit of the sealed key flipped", flipped(good, 60)),
        "nonce-flipped": ("key-rejected", "one bit of the nonce flipped", flipped(good, 50 + len(SEALED_KEY))),
        "cipher-flipped": ("key-rejected", "one bit of a KEK flipped", flipped(good, len(good) - 20)),
        "short": ("key-rejected", "the last byte is missing", good[:-1]),
        "long": ("key-rejected", "a byte follows", good + b"\0"),
        "short-in-tag": ("corrupt", "it ends within the tag, where nothing is sealed", good[:50 + len(SEALED_KEY) + 24 + 15]),
        "flag-0": ("corrupt", "a KEK that does neither", sealed(clear[:at_flag] + b"\0" + clear[at_flag + 1:])),
        "descend": ("corrupt", "in another order", sealed(kept.clear_of(KEKS[::-1]))),
        "twice": ("corrupt", "one KEK twice", sealed(kept.clear_of(KEKS[:1] * 2))),
        "more": ("corrupt", "a byte after the last KEK", sealed(clear + b"\0")),
        "fewer": ("corrupt", "a KEK less than it says", sealed(clear[:-1])),
        "magic-wrong": ("corrupt", "the magic of a KEK that is pushed", b"VMCRYPTK" + good[8:]),
        "reserved-10": ("corrupt", "a reserved byte is set", good[:10] + b"\1" + good[11:]),
        "version-2": ("unsupported", "version 2", good[:8] + b"\x02" + good[9:]),
    }
    fields = [("cluster", uuid(CLUSTER)), ("host", uuid(HOST)), ("sealed_key", SEALED_KEY.hex()), ("key", KEY.hex())]
    made = {}
    for name, (expect, why, data) in cases.items():
        keks = KEKS if name != "none" else []
        rows = [("kept", f"{uuid(one.provider)} {one.name} {one.flag} {one.begun} {one.kek.hex()} {one.key_id}") for one in keks]
        made[f"kept-{name}"] = VectorFile((("expect", expect), ("what", "kept"), ("why", why), *fields, *rows), (data,))
    return made
