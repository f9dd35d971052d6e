"""A component in the midst of a deep rekey (FORMAT.md section 10): the old DEK, the journal, which unit is under which DEK."""

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

from . import disk, keys
from .errors import Corrupt

MIB = 1024 * 1024
PLACES = (MIB, 2 * MIB, 5 * MIB, 6 * MIB)
MAGIC = b"VMCRYPTJ"
VERSION = 1
HMAC_AT = 96
TABLE_AT = 128
MARK = 8
MAX_UNITS = 65536
STEP = 4096
DONE = 2**62

# magic, version, reserved, uuid, id, sequence, cursor, n, reserved
HEAD = struct.Struct("<8sH6s16s16sQQI28s")


@dataclass(frozen=True)
class Transition:
    """What the header says of it. `old` is empty once nothing is under the old DEK any more."""

    id: bytes
    old: bytes


@dataclass(frozen=True)
class Record:
    """One record of the journal."""

    uuid: bytes
    id: bytes
    sequence: int
    cursor: int
    table: tuple[bytes, ...] = ()


def new_transition(id_: bytes, old_dek: bytes, new_dek: bytes) -> Transition:
    """The transition from one DEK to another."""
    return Transition(id_, keys.wrap(wrapping_key(id_, new_dek), old_dek))


def wrapping_key(id_: bytes, new_dek: bytes) -> bytes:
    """What wraps the old DEK."""
    return keys.hkdf(id_, new_dek, b"vmcryptfs v1 old DEK", 32)


def journal_key(id_: bytes, new_dek: bytes) -> bytes:
    """What authenticates the journal."""
    return keys.hkdf(id_, new_dek, b"vmcryptfs v1 journal", 32)


def old_dek(transition: Transition, new_dek: bytes) -> bytes | None:
    """The old DEK, if anything is under it."""
    if not transition.old:
        return None
    old = keys.unwrap_dek(wrapping_key(transition.id, new_dek), transition.old, len(new_dek))
    if old == new_dek:
        raise Corrupt("the old DEK is the new one")
    return old


def places(sequence: int) -> tuple[int, int]:
    """Where a record is written."""
    return (PLACES[0], PLACES[2]) if sequence % 2 == 0 else (PLACES[1], PLACES[3])


def encode(record: Record, key: bytes) -> bytes:
    """The bytes of a record. Does not validate, so that wrong ones can be made."""
    head = HEAD.pack(MAGIC, VERSION, b"", record.uuid, record.id, record.sequence, record.cursor, len(record.table), b"")
    return seal(head, b"".join(record.table), key)


def seal(head: bytes, table: bytes, key: bytes) -> bytes:
    """A record of these fields and this table."""
    return head + hmac.new(key, head + table, hashlib.sha256).digest() + table


def decode(place: bytes, key: bytes, uuid: bytes, id_: bytes) -> Record:
    """Read what stands at a place; anything but a valid record of this transition is refused."""
    if len(place) < TABLE_AT:
        raise Corrupt("a record that is cut off")
    magic, version, reserved_a, its_uuid, its_id, sequence, cursor, units, reserved_b = HEAD.unpack(place[:HMAC_AT])
    if magic != MAGIC or version != VERSION or any(reserved_a + reserved_b):
        raise Corrupt("no record")
    if sequence == 0 or cursor > DONE or cursor % STEP or units > MAX_UNITS or units % 8:
        raise Corrupt("a field of a record is outside its limits")
    table = place[TABLE_AT:TABLE_AT + units * MARK]
    expected = hmac.new(key, place[:HMAC_AT] + table, hashlib.sha256).digest()
    if len(table) != units * MARK or not hmac.compare_digest(expected, place[HMAC_AT:TABLE_AT]):
        raise Corrupt("a record's hmac does not verify")
    if (its_uuid, its_id) != (uuid, id_):
        raise Corrupt("a record of another disk or transition")
    return Record(its_uuid, its_id, sequence, cursor, tuple(table[at:at + MARK] for at in range(0, len(table), MARK)))


def newest(read_place: Callable[[int], bytes], key: bytes, uuid: bytes, id_: bytes) -> Record:
    """The record that counts."""
    valid = []
    for place in PLACES:
        try:
            valid.append(decode(read_place(place), key, uuid, id_))
        except Corrupt:
            continue
    if not valid:
        raise Corrupt("no record of the journal is valid")
    return max(valid, key=lambda record: record.sequence)


def read_range(deks: tuple[bytes, bytes], record: Record, sector_size: int, offset: int, ciphertext: bytes) -> bytes:
    """As disk.read_range, of a disk in transition; `deks` are the old and the new one."""
    def is_new(at: int) -> bool:
        unit = offset + at
        marked = (unit - record.cursor) // disk.UNIT
        if unit < record.cursor or marked >= len(record.table):
            return unit < record.cursor
        return ciphertext[at:at + MARK] == record.table[marked]

    def runs() -> Iterator[bytes]:
        for new, units in groupby(range(0, len(ciphertext), disk.UNIT), key=is_new):
            starts = list(units)
            run = ciphertext[starts[0]:starts[-1] + disk.UNIT]
            yield disk.read_range(deks[new], sector_size, offset + starts[0], run)

    return b"".join(runs())


def reader(file_no: int, uuid: bytes, transition: Transition | None, dek: bytes,
           sector_size: int) -> Callable[[int, bytes], bytes]:
    """What decrypts ranges of a disk whose header was verified with `dek`."""
    old = old_dek(transition, dek) if transition else None
    if transition is None or old is None:
        return lambda offset, ciphertext: disk.read_range(dek, sector_size, offset, ciphertext)
    deks = (old, dek)
    record = newest(lambda place: os.pread(file_no, MIB, place), journal_key(transition.id, dek), uuid, transition.id)
    return lambda offset, ciphertext: read_range(deks, record, sector_size, offset, ciphertext)
