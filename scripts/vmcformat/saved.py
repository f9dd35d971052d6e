"""Saved headers: docs/FORMAT.md, section 12."""

import struct
from dataclasses import dataclass
from hashlib import sha256

from .errors import Corrupt, Foreign, Unsupported
from .header import COPY_LEN, Header, decode, demand

MAGIC = b"VMCRYPTS"
VERSION = 1
COPY_AT = 32
CHECKSUM_LEN = 32
SAVED_LEN = COPY_AT + COPY_LEN + CHECKSUM_LEN


@dataclass(frozen=True)
class Saved:
    """What such a file holds."""

    time: int
    copy: bytes
    header: Header


def encode(time: int, copy: bytes) -> bytes:
    """The bytes of the file."""
    return summed(MAGIC + struct.pack("<H6xQ8x", VERSION, time) + copy)


def summed(content: bytes) -> bytes:
    """The content with the checksum that fits it."""
    return content + sha256(content).digest()


def decode_saved(data: bytes) -> Saved:
    """Judges in the order of section 12."""
    demand(data[:8] == MAGIC, "not a saved header")
    demand(len(data) >= 10, "the file ends within the version")
    version = int.from_bytes(data[8:10], "little")
    if version != VERSION:
        raise Unsupported(f"version {version}")
    demand(len(data) == SAVED_LEN, f"{len(data)} bytes, not {SAVED_LEN}")
    demand(sha256(data[:-CHECKSUM_LEN]).digest() == data[-CHECKSUM_LEN:], "the checksum differs")
    demand(data[10:16] == bytes(6) and data[24:32] == bytes(8), "reserved bytes are set")
    copy = data[COPY_AT:COPY_AT + COPY_LEN]
    try:
        header = decode(copy)
    except Foreign as refusal:
        raise Corrupt(str(refusal)) from refusal
    return Saved(int.from_bytes(data[16:24], "little"), copy, header)
