"""The mark of an erased component: docs/FORMAT.md, section 13."""

import struct
from dataclasses import dataclass
from hashlib import sha256

from .errors import Foreign
from .header import KIND_NAMES

MAGIC = b"VMCRYPTX"
VERSION = 1
MARK_LEN = 512
CHECKSUM_AT = 480


@dataclass(frozen=True)
class Erasure:
    """What a mark says."""

    kind: int
    time: int
    uuid: bytes


def encode(erasure: Erasure) -> bytes:
    """The bytes of the mark."""
    fields = struct.pack("<HB5xQ", VERSION, erasure.kind, erasure.time) + erasure.uuid
    return summed((MAGIC + fields).ljust(CHECKSUM_AT, b"\0"))


def summed(content: bytes) -> bytes:
    """The content with the checksum that fits it."""
    return content + sha256(content).digest()


def decode(data: bytes) -> Erasure:
    """What stands where a header copy would: all but a whole mark of this version is foreign."""
    mark = data[:MARK_LEN]
    demand(len(mark) == MARK_LEN, f"{len(mark)} bytes, not {MARK_LEN}")
    demand(mark[:8] == MAGIC, "no mark")
    demand(sha256(mark[:CHECKSUM_AT]).digest() == mark[CHECKSUM_AT:], "the checksum differs")
    version, kind, time = struct.unpack_from("<HB5xQ", mark, 8)
    demand(version == VERSION, f"version {version}")
    demand(kind in KIND_NAMES, f"kind {kind}")
    demand(mark[11:16] == bytes(5) and not any(mark[40:CHECKSUM_AT]), "reserved bytes are set")
    return Erasure(kind, time, mark[24:40])


def demand(holds: bool, why: str) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise Foreign(why)
