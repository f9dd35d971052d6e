"""Vectors of journal records: whole ones, and ones with exactly one defect whose hmac fits, unless it is the defect."""

import struct
from dataclasses import replace

from .samples import DISK_DEK, OTHER_DISK_DEK
from .transition import DONE, HEAD, HMAC_AT, MAGIC, MAX_UNITS, STEP, TABLE_AT, Record, encode, journal_key, seal
from .vectorfile import VectorFile, derive, derive_uuid

ID = derive("transition", 16)
UUID = derive_uuid("disk")
KEY = journal_key(ID, DISK_DEK)
TABLE = tuple(derive(f"mark {n}", 8) if n % 3 else bytes(8) for n in range(16))
RECORD = Record(UUID, ID, 7, 8192, TABLE)


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    bad = {name: vector("corrupt", why, record) for name, (why, record) in bad_cases().items()}
    return {**{name: good(why, record) for name, (why, record) in good_cases().items()}, **bad}


def vector(expect: str, why: str, record: bytes, *found: tuple[str, str]) -> VectorFile:
    """A record, and what it is read with."""
    fields = (("expect", expect), ("why", why), ("dek", DISK_DEK.hex()), ("uuid", UUID.hex()), ("id", ID.hex()), *found)
    return VectorFile(fields, (record,))


def good(why: str, record: Record) -> VectorFile:
    """A record that is valid."""
    marks = [("mark", mark.hex()) for mark in record.table]
    found = [("sequence", str(record.sequence)), ("cursor", str(record.cursor)), *marks]
    return vector("ok", why, encode(record, KEY), *found)


def good_cases() -> dict[str, tuple[str, Record]]:
    """What is special, and the record."""
    return {
        "first": ("a transition's first record", replace(RECORD, sequence=1, cursor=0, table=())),
        "chunk": ("a chunk of 16 units, some of them holes", RECORD),
        "between": ("no chunk", replace(RECORD, sequence=8, cursor=STEP, table=())),
        "done": ("the cursor at 2^62", replace(RECORD, cursor=DONE, table=())),
        "sequence-largest": ("sequence of 2^64 - 1", replace(RECORD, sequence=2**64 - 1)),
    }


def patched(at: int, new: bytes) -> bytes:
    """The record with some bytes of its head replaced, sealed again."""
    whole = encode(RECORD, KEY)
    head = whole[:at] + new + whole[at + len(new):HMAC_AT]
    return seal(head, whole[TABLE_AT:], KEY)


def bad_cases() -> dict[str, tuple[str, bytes]]:
    """What is wrong, and the record."""
    whole = encode(RECORD, KEY)
    units_at = HEAD.size - 32
    flipped = {name: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:]
               for name, at in {"sequence": 48, "cursor": 57, "hmac": HMAC_AT, "table": len(whole) - 1}.items()}
    return {
        "magic-wrong": ("another magic", patched(0, b"VMCRYPTK")),
        "hole": ("nothing but zeros", bytes(len(whole))),
        "version-2": ("version 2", patched(len(MAGIC), struct.pack("<H", 2))),
        "reserved-10": ("reserved byte 10 is 1", patched(10, b"\1")),
        "reserved-95": ("reserved byte 95 is 1", patched(HMAC_AT - 1, b"\1")),
        "sequence-0": ("sequence 0", encode(replace(RECORD, sequence=0), KEY)),
        "cursor-unaligned": ("a cursor that is no multiple of 4096", encode(replace(RECORD, cursor=512), KEY)),
        "cursor-behind-done": ("a cursor of 2^62 and 4096", encode(replace(RECORD, cursor=DONE + STEP), KEY)),
        "units-9": ("a chunk of 9 units", encode(replace(RECORD, table=TABLE[:9]), KEY)),
        "units-65544": ("a chunk of 65544 units", patched(units_at, struct.pack("<I", MAX_UNITS + 8))),
        "units-fewer": ("a chunk of 8 units, with the hmac of a table of 16", patched(units_at, struct.pack("<I", 8))),
        "table-cut": ("the table ends early", whole[:-8]),
        "head-cut": ("the record ends within its head", whole[:100]),
        "uuid-other": ("a record of another disk, of the same transition and key",
                       encode(replace(RECORD, uuid=derive_uuid("another disk")), KEY)),
        "id-other": ("a record of another transition of the same disk and DEK",
                     encode(replace(RECORD, id=derive("another transition", 16)),
                            journal_key(derive("another transition", 16), DISK_DEK))),
        "key-of-other-dek": ("sealed under another DEK", encode(RECORD, journal_key(ID, OTHER_DISK_DEK))),
        **{f"flipped-{name}": (f"one bit of the {name} flipped", record) for name, record in flipped.items()},
    }
