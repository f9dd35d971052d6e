"""Vectors of header copies with exactly one defect; HMAC and checksum are right unless they are the defect."""

import struct
from dataclasses import dataclass, replace

from .header import CHECKSUM_AT, DISK, GIB, HMAC_AT, HOME, MIB, Header, checksummed, encode, encode_body, new_slot, seal
from .samples import DEKS, DISK_DEK, HOME_DEK, KEK, OTHER_DISK_DEK, OTHER_KEK, PROVIDER, disk, home, slot
from .header_good import transition
from .vectorfile import VectorFile, derive, derive_uuid

DECODE, UNLOCK = "decode", "unlock"
TRANSITION = transition(OTHER_DISK_DEK, DISK_DEK)
LABEL_AT = 66


@dataclass(frozen=True)
class Bad:
    """A defective copy and what a reader must say of it."""

    why: str
    copy: bytes
    expect: str = "corrupt"
    at: str = DECODE
    kek: bytes = KEK

    def vector(self) -> VectorFile:
        """Its file."""
        fields = (("expect", self.expect), ("at", self.at), ("why", self.why), ("kek", self.kek.hex()))
        return VectorFile(fields, (self.copy,))


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    cases = {**prefix_cases(), **geometry_cases(), **reserved_cases(), **body_cases(), **slot_cases(),
             **transition_cases(), **state_cases(), **owner_cases(), **key_cases()}
    return {name: case.vector() for name, case in cases.items()}


def patched(header: Header, at: int, new: bytes) -> bytes:
    """The header with some bytes replaced, then sealed again."""
    dek = DEKS[header.kind]
    copy = encode(header, dek)
    return seal(copy[:at] + new + copy[at + len(new):], dek)


def flipped(copy: bytes, at: int) -> bytes:
    """The copy with the lowest bit of one byte flipped, and nothing made right again."""
    return copy[:at] + bytes([copy[at] ^ 1]) + copy[at + 1:]


def wrong_disk(why: str, header: Header) -> Bad:
    """A disk header that is wrong in what it says."""
    return Bad(why, encode(header, DISK_DEK))


def wrong_home(why: str, header: Header) -> Bad:
    """A home header that is wrong in what it says."""
    return Bad(why, encode(header, HOME_DEK))


def wrong_slot(why: str, bad_slot: object) -> Bad:
    """A disk header with this slot alone."""
    return wrong_disk(why, disk(slots=(bad_slot,)))


def u16(value: int) -> bytes:
    """Little-endian."""
    return struct.pack("<H", value)


def u32(value: int) -> bytes:
    """Little-endian."""
    return struct.pack("<I", value)


def prefix_cases() -> dict[str, Bad]:
    """Magic, version, features, checksum and the order among them."""
    good = encode(disk(), DISK_DEK)
    newer = patched(disk(), 8, u16(2))
    return {
        "magic-wrong": Bad("the magic ends in another letter", patched(disk(), 0, b"VMCRYPTG"), "foreign"),
        "magic-zero": Bad("nothing but zeros", bytes(len(good)), "foreign"),
        "version-0": Bad("version 0", patched(disk(), 8, u16(0)), "unsupported"),
        "version-2": Bad("version 2", newer, "unsupported"),
        "version-256": Bad("version 256, which is 1 in big-endian", patched(disk(), 8, u16(256)), "unsupported"),
        "version-2-checksum-elsewhere": Bad("version is judged before the checksum, which is wrong too",
                                            flipped(newer, CHECKSUM_AT), "unsupported"),
        "features-lowest": Bad("unknown feature, bit 1", patched(disk(), 12, u32(2)), "unsupported"),
        "features-beside-transition": Bad("an unknown feature beside the known one",
                                          patched(disk(transition=TRANSITION), 12, u32(3)), "unsupported"),
        "features-highest": Bad("unknown feature, bit 31", patched(disk(), 12, u32(1 << 31)), "unsupported"),
        "features-flipped": Bad("one bit of the features flipped, which is damage and no feature", flipped(good, 12)),
        "features-before-limits": Bad("unknown feature and kind 3: features are judged before limits",
                                      patched(disk(), 10, b"\x03\x01\x02\0\0\0"), "unsupported"),
        "short": Bad("a file that ends within the copy", good[:100]),
        "short-by-one": Bad("a file that ends one byte before the copy", good[:-1]),
        "short-after-magic": Bad("a file that ends behind the magic", good[:8]),
        "short-before-version": Bad("a file of version 2 that ends within the copy", newer[:100]),
        "short-in-magic": Bad("a file that ends within the magic", good[:7], "foreign"),
        "checksum-wrong": Bad("one bit of the checksum flipped", flipped(good, CHECKSUM_AT)),
        "checksum-of-label": Bad("one bit of the label flipped", flipped(good, LABEL_AT)),
        "checksum-of-reserved": Bad("one bit of the reserved bytes flipped", flipped(good, HMAC_AT - 1)),
        "checksum-of-hmac": Bad("one bit of the HMAC flipped", flipped(good, HMAC_AT)),
    }


def geometry_cases() -> dict[str, Bad]:
    """Sequence, kind, cipher, sector size and data offset."""
    disks = {
        "sequence-0": ("sequence 0", {"sequence": 0}),
        "sector-size-0": ("sector size 0", {"sector_size": 0}),
        "sector-size-1024": ("sector size 1024", {"sector_size": 1024}),
        "sector-size-8192": ("sector size 8192", {"sector_size": 8192}),
        "uuid-nil": ("the nil UUID", {"uuid": bytes(16)}),
        "data-offset-0": ("a disk with data_offset 0", {"data_offset": 0}),
        "data-offset-unaligned": ("data_offset of 8 MiB and a sector", {"data_offset": 8 * MIB + 4096}),
        "data-offset-small": ("data_offset of 7 MiB", {"data_offset": 7 * MIB}),
        "data-offset-large": ("data_offset of 1 GiB and 1 MiB", {"data_offset": GIB + MIB}),
        "data-offset-huge": ("data_offset of 2^64 - 1 MiB", {"data_offset": 2**64 - MIB}),
    }
    return {
        **{name: wrong_disk(why, disk(**changes)) for name, (why, changes) in disks.items()},
        "home-sector-size-512": wrong_home("a home with sector size 512", home(sector_size=512)),
        "home-data-offset": wrong_home("a home with data_offset 8 MiB", home(data_offset=8 * MIB)),
        "kind-0": Bad("kind 0", patched(disk(), 10, b"\x00")),
        "kind-3": Bad("kind 3", patched(disk(), 10, b"\x03")),
        "cipher-0": Bad("cipher 0", patched(disk(), 11, b"\x00")),
        "cipher-3": Bad("cipher 3", patched(disk(), 11, b"\x03")),
        "cipher-of-home-on-disk": Bad("a disk with the home's cipher", patched(disk(), 11, b"\x02")),
        "cipher-of-disk-on-home": Bad("a home with the disk's cipher", patched(home(), 11, b"\x01")),
    }


def reserved_cases() -> dict[str, Bad]:
    """Each reserved field with one bit set."""
    body_end = 64 + len(encode_body(disk()))
    places = {"at-60": 60, "at-63": 63, "behind-body": body_end, "last": HMAC_AT - 1}
    return {f"reserved-{name}": Bad(f"reserved byte {at} is 1", patched(disk(), at, b"\x01"))
            for name, at in places.items()}


def body_cases() -> dict[str, Bad]:
    """Length of the body, label and disk names."""
    body_len = len(encode_body(disk()))
    truncated = encode(disk(), DISK_DEK)[:64 + body_len - 8].ljust(HMAC_AT, b"\0")
    truncated = truncated[:56] + u32(body_len - 8) + truncated[60:]
    names = tuple(f"*.{n}" for n in range(33))
    return {
        "body-len-over": Bad("body_len 8065", patched(disk(), 56, u32(8065))),
        "body-len-huge": Bad("body_len 2^32 - 1", patched(disk(), 56, u32(2**32 - 1))),
        "body-len-0": Bad("a body of no bytes", seal(encode(disk(), DISK_DEK)[:56].ljust(HMAC_AT, b"\0"), DISK_DEK)),
        "body-truncated": Bad("the body ends 8 bytes early", seal(truncated, DISK_DEK)),
        "body-trailing": Bad("one zero byte behind the last slot", patched(disk(), 56, u32(body_len + 1))),
        "label-not-utf8": Bad("the label holds a lone 0xff", patched(disk(), LABEL_AT, b"\xff")),
        "label-surrogate": Bad("the label holds U+D800", patched(disk(), LABEL_AT, b"\xed\xa0\x80")),
        "label-overlong": Bad("the label holds an overlong slash", patched(disk(), LABEL_AT, b"\xc0\xaf")),
        "label-newline": wrong_disk("a newline in the label", disk(label="a\nb")),
        "label-nul": wrong_disk("a NUL in the label", disk(label="a\0b")),
        "label-c1-control": wrong_disk("U+009F in the label", disk(label="a\x9fb")),
        "label-too-long": wrong_disk("a label of 256 bytes", disk(label="l" * 256)),
        "label-past-body": Bad("a label longer than the body", patched(disk(), 64, u16(255))),
        "disk-names-on-disk": wrong_disk("a disk with disk_names", disk(disk_names=("*.raw",))),
        "disk-names-33": wrong_home("33 patterns", home(disk_names=names)),
        "disk-name-empty": wrong_home("an empty pattern", home(disk_names=("*.raw", ""))),
        "disk-name-too-long": wrong_home("a pattern of 65 bytes", home(disk_names=("n" * 65,))),
        "disk-name-slash": wrong_home("a slash in a pattern", home(disk_names=("a/*.raw",))),
        "disk-name-newline": wrong_home("a newline in a pattern", home(disk_names=("*.raw\n",))),
        "disk-name-c1-control": wrong_home("U+0080 in a pattern", home(disk_names=("*.raw\x80",))),
        "disk-name-not-utf8": Bad("a pattern holds a lone 0xff",
                                  patched(home(label="", disk_names=("*.raw",)), LABEL_AT + 2, b"\xff")),
    }


def slot_cases() -> dict[str, Bad]:
    """Number of slots and their fields."""
    provider_at = LABEL_AT + len("root disk") + 4
    key_id_at = provider_at + len(PROVIDER) + 2
    return {
        "slots-0": wrong_disk("no slot", disk(slots=())),
        "slots-5": wrong_disk("five slots", disk(slots=tuple(slot(DISK, key_id=f"key-{n}") for n in range(5)))),
        "wrap-0": wrong_slot("wrap algorithm 0", slot(DISK, wrap=0)),
        "wrap-2": wrong_slot("wrap algorithm 2", slot(DISK, wrap=2)),
        "provider-empty": wrong_slot("an empty provider name", slot(DISK, provider="")),
        "provider-too-long": wrong_slot("a provider name of 65 bytes", slot(DISK, provider="p" * 65)),
        "provider-slash": wrong_slot("a provider name with a slash", slot(DISK, provider="a/b")),
        "provider-space": wrong_slot("a provider name with a space", slot(DISK, provider="a b")),
        "provider-utf8": wrong_slot("a provider name that is not ASCII", slot(DISK, provider="é")),
        "provider-dot-first": wrong_slot("a provider name that begins with a dot", slot(DISK, provider=".a")),
        "provider-dash-first": wrong_slot("a provider name that begins with a dash", slot(DISK, provider="-a")),
        "provider-newline": wrong_slot("a provider name that ends in a newline", slot(DISK, provider="local\n")),
        "provider-high-byte": Bad("a provider name with the byte 0xff", patched(disk(), provider_at, b"\xff")),
        "key-id-empty": wrong_slot("an empty key id", slot(DISK, key_id="")),
        "key-id-too-long": wrong_slot("a key id of 513 bytes", slot(DISK, key_id="k" * 513)),
        "key-id-newline": wrong_slot("a newline in the key id", slot(DISK, key_id="a\nb")),
        "key-id-nul": wrong_slot("a NUL in the key id", slot(DISK, key_id="a\0b")),
        "key-id-delete": wrong_slot("U+007F in the key id", slot(DISK, key_id="a\x7fb")),
        "key-id-c1-control": wrong_slot("U+0085 in the key id", slot(DISK, key_id="a\x85b")),
        "key-id-not-utf8": Bad("the key id holds a lone 0xff", patched(disk(), key_id_at, b"\xff")),
        "wrapped-empty": wrong_slot("a wrapped DEK of 0 bytes", slot(DISK, wrapped=b"")),
        "wrapped-of-home-on-disk": wrong_slot("a disk with a 40-byte wrapped DEK", slot(HOME)),
        "wrapped-of-disk-on-home": wrong_home("a home with a 72-byte wrapped DEK", home(slots=(slot(DISK),))),
        "wrapped-80": wrong_slot("a wrapped DEK of 80 bytes", slot(DISK, wrapped=slot(DISK).wrapped + bytes(8))),
    }


def transition_cases() -> dict[str, Bad]:
    """What the body says of a deep rekey. Whether the old DEK is right tells only the new one."""
    whole = disk(transition=TRANSITION)
    at = 64 + len(encode_body(disk()))
    moved = replace(TRANSITION, id=derive("another transition", 16))
    return {
        "transition-missing": Bad("the feature is set, and the body ends with the slots", patched(disk(), 12, u32(1))),
        "transition-without-feature": Bad("the feature is not set, and the body goes on behind the slots",
                                          patched(whole, 12, u32(0))),
        "transition-id-zero": wrong_disk("a transition without an id", disk(transition=replace(TRANSITION, id=bytes(16)))),
        "transition-old-of-home": wrong_disk("a disk with an old DEK of 40 wrapped bytes",
                                             disk(transition=replace(TRANSITION, old=TRANSITION.old[:40]))),
        "transition-old-short": Bad("the body ends within the old DEK",
                                    patched(whole, 56, u32(len(encode_body(whole)) - 1))),
        "transition-old-len": Bad("the old DEK's length is 71", patched(whole, at + 16, b"\x47")),
        "transition-forged": Bad("a transition that someone without the DEK put into the header, all else being right",
                                 seal(encode(whole, DISK_DEK), OTHER_DISK_DEK), at=UNLOCK),
        "transition-old-damaged": Bad("one bit of the old DEK flipped",
                                      encode(disk(transition=replace(TRANSITION, old=flipped(TRANSITION.old, 9))), DISK_DEK),
                                      at=UNLOCK),
        "transition-old-moved": Bad("an old DEK of another transition", encode(disk(transition=moved), DISK_DEK), at=UNLOCK),
        "transition-old-same": Bad("an old DEK that is the new one",
                                   encode(disk(transition=transition(DISK_DEK, DISK_DEK)), DISK_DEK), at=UNLOCK),
    }


def state_cases() -> dict[str, Bad]:
    """What the body of a home says of how much of its files is sealed."""
    whole = home(state=2)
    at = 64 + len(encode_body(home()))
    changed = encode(home(state=1), HOME_DEK)
    return {
        "state-0": Bad("state 0", patched(whole, at, b"\x00")),
        "state-5": Bad("state 5", patched(whole, at, b"\x05")),
        "state-missing": Bad("the feature is set, and the body ends with the slots", patched(home(), 12, u32(2))),
        "state-without-feature": Bad("the feature is not set, and a byte follows the slots", patched(whole, 12, u32(0))),
        "state-forged": Bad("the state was changed without the DEK",
                            checksummed(changed[:HMAC_AT] + encode(whole, HOME_DEK)[HMAC_AT:CHECKSUM_AT]), at=UNLOCK),
    }


def owner_cases() -> dict[str, Bad]:
    """What the body of a disk says of the home that it belongs to."""
    whole, other = disk(owner=derive_uuid("home")), disk(owner=derive_uuid("another home"))
    forged_copy = checksummed(encode(other, DISK_DEK)[:HMAC_AT] + encode(whole, DISK_DEK)[HMAC_AT:CHECKSUM_AT])
    return {
        "owner-nil": wrong_disk("a disk of the nil UUID", disk(owner=bytes(16))),
        "owner-missing": Bad("the feature is set, and the body ends with the slots", patched(disk(), 12, u32(4))),
        "owner-without-feature": Bad("the feature is not set, and the body goes on", patched(whole, 12, u32(0))),
        "owner-of-home": Bad("a home with an owner", patched(replace(home(), owner=derive_uuid("home")), 12, u32(4))),
        "owner-forged": Bad("the owner was changed without the DEK", forged_copy, at=UNLOCK),
    }


def key_cases() -> dict[str, Bad]:
    """What only a reader with the KEK can tell."""
    good = encode(disk(), DISK_DEK)
    mine = slot(DISK)
    damaged = replace(mine, wrapped=flipped(mine.wrapped, 40))
    moved = new_slot(PROVIDER, "vector-key", KEK, OTHER_DISK_DEK)
    return {
        "kek-wrong": Bad("another KEK", good, "key-rejected", UNLOCK, OTHER_KEK),
        "check-wrong": Bad("one bit of the key check flipped",
                           encode(disk(slots=(replace(mine, check=flipped(mine.check, 0)),)), DISK_DEK),
                           "key-rejected", UNLOCK),
        "wrapped-flipped": Bad("one bit of the wrapped DEK flipped", encode(disk(slots=(damaged,)), DISK_DEK),
                               at=UNLOCK),
        "hmac-wrong": Bad("one bit of the HMAC flipped", checksummed(flipped(good, HMAC_AT)), at=UNLOCK),
        "hmac-zero": Bad("an HMAC of zeros", checksummed(good[:HMAC_AT] + bytes(32)), at=UNLOCK),
        "hmac-data-offset": forged("data_offset moved without the DEK", good, disk(data_offset=9 * MIB)),
        "hmac-sector-size": forged("sector size changed without the DEK", good, disk(sector_size=512)),
        "hmac-sequence": forged("sequence raised without the DEK", good, disk(sequence=2)),
        "hmac-uuid": forged("uuid changed without the DEK", good, disk(uuid=derive_uuid("forged"))),
        "hmac-label": forged("label changed without the DEK", good, disk(label="ROOT DISK")),
        "dek-halves-equal": under("a DEK with K1 = K2, under which the HMAC verifies", disk(), DISK_DEK[:32] * 2),
        "dek-63": under("a DEK of 63 bytes, under which the HMAC verifies", disk(), DISK_DEK[:63]),
        "dek-31": under("a home's DEK of 31 bytes, under which the HMAC verifies", home(), HOME_DEK[:31]),
        "slot-moved": Bad("the slot is that of another disk with the same KEK",
                          encode(disk(slots=(moved,)), DISK_DEK), at=UNLOCK),
    }


def under(why: str, header: Header, dek: bytes) -> Bad:
    """The header with this DEK in its slot and in its HMAC."""
    return Bad(why, encode(replace(header, slots=(new_slot(PROVIDER, "vector-key", KEK, dek),)), dek), at=UNLOCK)


def forged(why: str, good: bytes, changed: Header) -> Bad:
    """The changed header under the HMAC of the good one."""
    copy = encode(changed, DISK_DEK)
    return Bad(why, checksummed(copy[:HMAC_AT] + good[HMAC_AT:CHECKSUM_AT]), at=UNLOCK)
