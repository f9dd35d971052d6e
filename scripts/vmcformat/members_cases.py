"""Vectors of lists of disks: whole ones, and ones with exactly one defect whose hmac fits, unless it is the defect."""

import struct
from dataclasses import replace

from .members import CHANGING, FIXED, SETTLED, Member, MemberList, encode, members_key, seal
from .samples import HOME_DEK
from .vectorfile import VectorFile, derive, derive_uuid

HOME = derive_uuid("home")
KEY = members_key(HOME, HOME_DEK)
FIRST, SECOND = sorted([derive_uuid("listed disk 1"), derive_uuid("listed disk 2")])
DISKS = (Member(FIRST, 0, 1, ((SETTLED, b"root.raw"),)),
         Member(SECOND, 3, 12, ((SETTLED, b"data.raw"), (CHANGING, "daten/größe.qcow2".encode()))))
LIST = MemberList(HOME, 7, DISKS)


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    bad = {name: vector(expect, why, copy) for name, (expect, why, copy) in bad_cases().items()}
    return {**{name: good(why, made) for name, (why, made) in good_cases().items()}, **bad}


def vector(expect: str, why: str, copy: bytes, *found: tuple[str, str]) -> VectorFile:
    """A copy, and what it is read with."""
    fields = (("expect", expect), ("why", why), ("dek", HOME_DEK.hex()), ("uuid", HOME.hex()), *found)
    return VectorFile(fields, (copy,))


def good(why: str, made: MemberList) -> VectorFile:
    """A list that is valid."""
    return vector("ok", why, encode(made, KEY), ("sequence", str(made.sequence)), *described(made))


def described(made: MemberList) -> list[tuple[str, str]]:
    """A line for each name of each disk."""
    words = {SETTLED: "own", CHANGING: "changing"}
    return [("disk", f"{disk.uuid.hex()} {disk.dek_generation} {disk.sequence} {words[state]} {path.hex()}")
            for disk in made.disks for state, path in disk.names]


def good_cases() -> dict[str, tuple[str, MemberList]]:
    """What is special, and the list."""
    return {
        "empty": ("a home without disks", MemberList(HOME, 1, ())),
        "disks": ("two disks, one of which gets another name", LIST),
        "same-name": ("a name that goes from one disk to another",
                      replace(LIST, disks=tuple(replace(disk, names=((CHANGING, b"root.raw"),)) for disk in DISKS))),
        "largest-numbers": ("generation 2^32 - 1 and sequences of 2^64 - 1",
                            replace(LIST, sequence=2**64 - 1, disks=(
                                replace(DISKS[0], dek_generation=2**32 - 1, sequence=2**64 - 1),))),
    }


def patched(at: int, new: bytes) -> bytes:
    """The copy with some bytes replaced, sealed again."""
    whole = encode(LIST, KEY)[:-32]
    return seal(whole[:at] + new + whole[at + len(new):], KEY)


def bad_cases() -> dict[str, tuple[str, str, bytes]]:
    """Which refusal, what is wrong, and the copy."""
    whole = encode(LIST, KEY)
    other_key = members_key(HOME, derive("another home dek", 32))
    flipped = {name: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:]
               for name, at in {"sequence": 32, "disk": FIXED.size + 20, "hmac": len(whole) - 1}.items()}
    defects = {
        "magic-wrong": ("another magic", patched(0, b"VMCRYPTK")),
        "hole": ("nothing but zeros", bytes(len(whole))),
        "reserved-10": ("reserved byte 10 is 1", patched(10, b"\1")),
        "sequence-0": ("sequence 0", encode(replace(LIST, sequence=0), KEY)),
        "count-more": ("a count of 3 disks", patched(40, struct.pack("<I", 3))),
        "count-fewer": ("a count of 1 disk", patched(40, struct.pack("<I", 1))),
        "body-longer": ("a length that is not there", patched(44, struct.pack("<I", 2**32 - 1))),
        "state-2": ("a name in state 2", patched(FIXED.size + 30, b"\2")),
        "order": ("disks in another order", encode(replace(LIST, disks=DISKS[::-1]), KEY)),
        "twice": ("one disk twice", encode(replace(LIST, disks=(DISKS[0], DISKS[0])), KEY)),
        "cut": ("the copy ends early", whole[:-1]),
        "home-other": ("the list of another home with the same DEK",
                       encode(replace(LIST, home=derive_uuid("another home")),
                              members_key(derive_uuid("another home"), HOME_DEK))),
        "key-of-other-dek": ("under another DEK", encode(LIST, other_key)),
        **{f"flipped-{name}": (f"one bit of the {name} flipped", copy) for name, copy in flipped.items()},
    }
    bad = {name: ("corrupt", why, copy) for name, (why, copy) in defects.items()}
    return {**bad, "version-2": ("unsupported", "version 2", patched(8, struct.pack("<H", 2)))}
