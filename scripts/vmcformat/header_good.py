"""Vectors of header copies that must decode and unlock."""

from dataclasses import replace
from uuid import UUID

from .header import DISK, GIB, KIND_NAMES, STATES, Header, encode, new_slot
from .samples import DEKS, DISK_DEK, HOME_DEK, KEK, OTHER_DISK_DEK, OTHER_KEK, disk, home, slot
from .transition import Transition, new_transition
from .vectorfile import VectorFile, derive, derive_uuid


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {name: good(why, header, kek) for name, (why, header, kek) in cases().items()}


def cases() -> dict[str, tuple[str, Header, bytes]]:
    """What is special, the header, and the KEK that must unlock it."""
    return {
        "disk-4096": ("a disk of 4096-byte sectors", disk(), KEK),
        "disk-512": ("a disk of 512-byte sectors", disk(sector_size=512), KEK),
        "home": ("a home", home(), KEK),
        "home-disk-names": ("a home with patterns of its own", home(disk_names=("*.raw", "disk-##", "*.Ünï")), KEK),
        "label-empty": ("an empty label", disk(label=""), KEK),
        "label-utf8": ("a label of 1-, 2-, 3- and 4-byte letters", disk(label="Platte Ä 磁盘 💾 e\u0301"), KEK),
        "data-offset-largest": ("data_offset of 1 GiB", disk(data_offset=GIB), KEK),
        "sequence-largest": ("sequence of 2^64 - 1", disk(sequence=2**64 - 1), KEK),
        "dek-generation": ("a disk that went through 258 deep rekeys", disk(dek_generation=258), KEK),
        "dek-generation-largest": ("a home of DEK generation 2^32 - 1", home(dek_generation=2**32 - 1), KEK),
        "slots-4-first": ("four slots, and the KEK of the first", four_slots(), kek_of(1)),
        "slots-4-last": ("four slots, and the KEK of the last", four_slots(), kek_of(4)),
        "slot-damaged-beside": ("a damaged slot and a good one, both of this KEK", damaged_beside_good(), KEK),
        "slot-rejected-beside": ("two slots of the same provider and key id, the first of another KEK",
                                 disk(slots=(new_slot("local", "vector-key", OTHER_KEK, DISK_DEK), slot(DISK))), KEK),
        "slots-same": ("two slots that are the same", disk(slots=(slot(DISK), slot(DISK))), KEK),
        "uuid-of-no-version": ("a UUID that is not of version 4", disk(uuid=b"\xff" * 16), KEK),
        "label-format-character": ("U+200E and U+FEFF in the label: format characters are no control characters",
                                   disk(label="a\u200eb\ufeffc"), KEK),
        "key-id-utf8": ("a key id with spaces, a slash and UTF-8",
                        disk(slots=(slot(DISK, key_id="Schlüssel 7/ключ 鍵"),)), KEK),
        "provider-all-characters": ("a provider name of every kind of character",
                                    disk(slots=(slot(DISK, provider="_Az09-_.-."),)), KEK),
        "transition-disk": ("a disk in transition", disk(transition=transition(OTHER_DISK_DEK, DISK_DEK),
                                                         dek_generation=1), KEK),
        "transition-home": ("a home in transition",
                            home(transition=transition(derive("another home dek", 32), HOME_DEK)), KEK),
        "transition-tidying": ("a disk in transition with nothing under the old DEK any more",
                               disk(transition=Transition(derive("transition", 16), b"")), KEK),
        "state-encrypting": ("a home whose encryption was begun", home(state=1), KEK),
        "state-encrypted": ("a home that is encrypted as a whole", home(state=2), KEK),
        "state-decrypting": ("a home whose decryption was begun", home(state=3), KEK),
        "state-converting-disks": ("a home whose disks are being encrypted or decrypted", home(state=4), KEK),
        "state-and-transition": ("a home with a state, in transition",
                                 home(transition=transition(derive("another home dek", 32), HOME_DEK), state=2), KEK),
        "owner": ("a disk that names its home", disk(owner=derive_uuid("home")), KEK),
        "owner-in-transition": ("a disk that names its home, in transition",
                                disk(transition=transition(OTHER_DISK_DEK, DISK_DEK), owner=derive_uuid("home")), KEK),
        "binds-disks": ("a home all of whose disks name it", home(binds_disks=True), KEK),
        "binds-disks-and-state": ("a home as this version makes it", home(binds_disks=True, state=2), KEK),
        "lists-disks": ("a home with a list of its disks", home(binds_disks=True, lists_disks=True, state=2), KEK),
        "longest-disk": ("every field of a disk at its longest", longest_disk(), kek_of(3)),
        "longest-home": ("every field of a home at its longest", longest_home(), kek_of(2)),
        "longest-home-in-transition": ("every field of a home in transition at its longest",
                                       replace(longest_home(),
                                               transition=transition(derive("another home dek", 32), HOME_DEK)),
                                       kek_of(2)),
    }


def transition(old: bytes, new: bytes) -> Transition:
    """A transition from one DEK to another."""
    return new_transition(derive("transition", 16), old, new)


def kek_of(number: int) -> bytes:
    """The KEK of one of four slots."""
    return derive(f"kek {number}", 32)


def four_slots() -> Header:
    """A disk with four providers."""
    return disk(slots=tuple(new_slot(f"provider-{n}", f"key-{n}", kek_of(n), DISK_DEK) for n in range(1, 5)))


def damaged_beside_good() -> Header:
    """The first slot agrees with the KEK but does not unwrap; the second does."""
    whole = slot(DISK)
    flipped = bytes([whole.wrapped[0] ^ 1]) + whole.wrapped[1:]
    return disk(slots=(slot(DISK, wrapped=flipped), whole))


def longest_slot(number: int, dek: bytes) -> tuple[str, str, bytes, bytes]:
    """What `new_slot` takes, with names at their longest."""
    return f"{number}".ljust(64, "p"), f"{number}".ljust(510, "k") + "é", kek_of(number), dek


def longest_disk() -> Header:
    """A disk with every text at its limit in bytes."""
    slots = tuple(new_slot(*longest_slot(n, DISK_DEK)) for n in range(1, 5))
    return disk(label="é" * 127 + "x", slots=slots)


def longest_home() -> Header:
    """A home with every text and list at its limit."""
    slots = tuple(new_slot(*longest_slot(n, HOME_DEK)) for n in range(1, 5))
    names = tuple("*" + f"{n:02}".rjust(63, "n") for n in range(32))
    return home(label="é" * 127 + "x", disk_names=names, slots=slots)


def good(why: str, header: Header, kek: bytes) -> VectorFile:
    """The vector of a header that unlocks."""
    dek = DEKS[header.kind]
    fields = [("expect", "ok"), ("why", why), ("kek", kek.hex()), ("dek", dek.hex())]
    return VectorFile(tuple(fields + decoded_fields(header)), (encode(header, dek),))


def decoded_fields(header: Header) -> list[tuple[str, str]]:
    """What a reader must find in the copy. An empty label has no line, so that no line ends in a space; nor has
    DEK generation 0."""
    fields = [
        ("kind", KIND_NAMES[header.kind]),
        ("uuid", str(UUID(bytes=header.uuid))),
        ("sequence", str(header.sequence)),
        ("sector_size", str(header.sector_size)),
        ("data_offset", str(header.data_offset)),
    ]
    fields += [("dek_generation", str(header.dek_generation))] if header.dek_generation else []
    fields += [("label", header.label)] if header.label else []
    fields += [("disk_name", name) for name in header.disk_names]
    fields += [("slot", f"{s.provider} {s.key_id} {s.check.hex()} {s.wrapped.hex()}") for s in header.slots]
    if header.state is not None:
        fields.append(("state", STATES[header.state]))
    fields += [("owner", str(UUID(bytes=header.owner)))] if header.owner is not None else []
    fields += [("binds_disks", "yes")] if header.binds_disks else []
    fields += [("lists_disks", "yes")] if header.lists_disks else []
    if header.transition:
        fields.append(("transition", f"{header.transition.id.hex()} {header.transition.old.hex() or 'tidying'}"))
    return fields
