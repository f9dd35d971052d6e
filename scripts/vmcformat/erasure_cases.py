"""Vectors of the mark of an erased component."""

from uuid import UUID

from .erasure import CHECKSUM_AT, Erasure, encode, summed
from .header import COPY_LEN, DISK, HOME, KIND_NAMES
from .header_bad import flipped
from .vectorfile import VectorFile, derive, derive_uuid

TIME = 1795980246
UUID_OF_ALL = derive_uuid("erased")


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {**good_vectors(), **bad_vectors()}


def good_vectors() -> dict[str, VectorFile]:
    """Marks."""
    noise = derive("erased: the rest of the copy", COPY_LEN - 512)
    cases = {
        "disk": ("a disk", Erasure(DISK, TIME, UUID_OF_ALL), b""),
        "home": ("a home", Erasure(HOME, TIME, UUID_OF_ALL), b""),
        "whole-copy": ("random bytes stand in the rest of the copy", Erasure(DISK, TIME, UUID_OF_ALL), noise),
        "uuid-nil": ("no copy could be read", Erasure(DISK, TIME, bytes(16)), b""),
        "time-zero": ("the smallest time", Erasure(HOME, 0, UUID_OF_ALL), b""),
        "time-largest": ("the largest time, which no calendar has", Erasure(DISK, 2**64 - 1, UUID_OF_ALL), b""),
    }
    return {name: VectorFile((("expect", "ok"), ("why", why), *fields(mark)), (encode(mark) + rest,))
            for name, (why, mark, rest) in cases.items()}


def fields(mark: Erasure) -> list[tuple[str, str]]:
    """What a vector says of a mark."""
    return [("kind", KIND_NAMES[mark.kind]), ("uuid", str(UUID(bytes=mark.uuid))), ("time", str(mark.time))]


def bad_vectors() -> dict[str, VectorFile]:
    """Marks with one defect."""
    good = encode(Erasure(DISK, TIME, UUID_OF_ALL))
    content = good[:CHECKSUM_AT]

    def with_byte(at: int, value: int) -> bytes:
        return summed(content[:at] + bytes([value]) + content[at + 1:])

    cases = {
        "magic-alone": ("the file ends behind the magic", good[:8]),
        "short": ("the last byte is missing", good[:-1]),
        "magic-wrong": ("the magic of a saved header", summed(b"VMCRYPTS" + content[8:])),
        "magic-of-header": ("the magic of a header that is there", summed(b"VMCRYPTF" + content[8:])),
        "version-0": ("version 0", with_byte(8, 0)),
        "version-2": ("version 2", with_byte(8, 2)),
        "version-257": ("version 257, whose first byte is 1", with_byte(9, 1)),
        "kind-0": ("kind 0", with_byte(10, 0)),
        "kind-3": ("kind 3", with_byte(10, 3)),
        "reserved-11": ("reserved byte 11 is 1", with_byte(11, 1)),
        "reserved-15": ("reserved byte 15 is 1", with_byte(15, 1)),
        "reserved-40": ("reserved byte 40 is 1", with_byte(40, 1)),
        "reserved-479": ("reserved byte 479 is 1", with_byte(479, 1)),
        "checksum-wrong": ("one bit of the time flipped", flipped(good, 16)),
        "checksum-flipped": ("one bit of the checksum flipped", flipped(good, 511)),
        "checksum-zero": ("zeros in place of the checksum", content + bytes(32)),
    }
    return {name: VectorFile((("expect", "foreign"), ("why", why)), (data,)) for name, (why, data) in cases.items()}
