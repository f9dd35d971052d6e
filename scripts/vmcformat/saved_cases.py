"""Vectors of saved headers."""

from .header import encode as encode_copy
from .header_bad import flipped
from .header_good import decoded_fields
from .samples import DISK_DEK, HOME_DEK, disk, home
from .saved import CHECKSUM_LEN, encode, summed
from .vectorfile import VectorFile

TIME = 1764097200


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {**good_vectors(), **bad_vectors()}


def good_vectors() -> dict[str, VectorFile]:
    """Files that are read."""
    cases = {
        "disk": ("a disk's header", disk(sequence=7), DISK_DEK, TIME),
        "home": ("a home's header", home(), HOME_DEK, TIME),
        "time-largest": ("the largest time", disk(), DISK_DEK, 2**64 - 1),
    }
    return {name: VectorFile((("expect", "ok"), ("why", why), ("time", str(time)), *decoded_fields(header)),
                             (encode(time, encode_copy(header, dek)),))
            for name, (why, header, dek, time) in cases.items()}


def bad_vectors() -> dict[str, VectorFile]:
    """Files with one defect."""
    copy = encode_copy(disk(), DISK_DEK)
    good = encode(TIME, copy)
    content = good[:-CHECKSUM_LEN]
    cases = {
        "magic-wrong": ("corrupt", "the magic of a header", summed(b"VMCRYPTF" + content[8:])),
        "version-2": ("unsupported", "version 2", summed(content[:8] + b"\x02" + content[9:])),
        "version-2-longer": ("unsupported", "version 2 is judged before the length", good[:8] + b"\x02\0" + good),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "short-in-version": ("corrupt", "the file ends within the version", good[:9]),
        "short-summed": ("corrupt", "a byte of the copy is missing, and the checksum fits", summed(content[:-1])),
        "long": ("corrupt", "a byte follows", good + b"\0"),
        "checksum-wrong": ("corrupt", "one bit of the time flipped", flipped(good, 16)),
        "reserved-10": ("corrupt", "reserved byte 10 is 1", summed(content[:10] + b"\x01" + content[11:])),
        "reserved-31": ("corrupt", "reserved byte 31 is 1", summed(content[:31] + b"\x01" + content[32:])),
        "copy-damaged": ("corrupt", "one bit of the copy flipped, in a frame that fits", encode(TIME, flipped(copy, 70))),
        "copy-foreign": ("corrupt", "zeros in place of the copy", encode(TIME, bytes(len(copy)))),
        "copy-too-new": ("unsupported", "the copy has version 2", encode(TIME, copy[:8] + b"\x02" + copy[9:])),
    }
    return {name: VectorFile((("expect", expect), ("why", why)), (data,))
            for name, (expect, why, data) in cases.items()}
