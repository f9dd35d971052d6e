"""The keys and headers that the vectors start from."""

from dataclasses import replace
from typing import Any

from .header import DEK_LEN, DISK, HOME, MIB, Header, Slot, new_slot
from .vectorfile import derive, derive_uuid

KEK = derive("kek", 32)
OTHER_KEK = derive("another kek", 32)
DISK_DEK = derive("disk dek", 64)
HOME_DEK = derive("home dek", 32)
OTHER_DISK_DEK = derive("another disk dek", 64)
DEKS = {DISK: DISK_DEK, HOME: HOME_DEK}
PROVIDER = "local"
KEY_ID = "vector-key"

assert all(len(dek) == DEK_LEN[kind] for kind, dek in DEKS.items())


def slot(kind: int, **changes: Any) -> Slot:
    """The slot of KEK, with some fields changed."""
    return replace(new_slot(PROVIDER, KEY_ID, KEK, DEKS[kind]), **changes)


def disk(**changes: Any) -> Header:
    """A disk's header, with some fields changed."""
    header = Header(kind=DISK, uuid=derive_uuid("disk"), sequence=1, sector_size=4096, data_offset=8 * MIB,
                    label="root disk", disk_names=(), slots=(slot(DISK),))
    return replace(header, **changes)


def home(**changes: Any) -> Header:
    """A home's header, with some fields changed."""
    header = Header(kind=HOME, uuid=derive_uuid("home"), sequence=1, sector_size=4096, data_offset=0,
                    label="web01", disk_names=(), slots=(slot(HOME),))
    return replace(header, **changes)
