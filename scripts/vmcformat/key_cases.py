"""Vectors of pairs of header copies and of wrapped DEKs."""

from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from .header import DISK, HOME, KIND_NAMES, Header, encode, seal
from .header_bad import flipped, patched
from .keys import key_check, shared_kek, shared_key_check, wrap
from .samples import DISK_DEK, HOME_DEK, KEK, OTHER_KEK, disk, home
from .vectorfile import VectorFile, derive, derive_uuid


def pair_vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {**served_pairs(), **refused_pairs()}


def copy_of(header: Header) -> bytes:
    """Its bytes, under the DEK of its kind."""
    return encode(header, HOME_DEK if header.kind == HOME else DISK_DEK)


def served_pairs() -> dict[str, VectorFile]:
    """Pairs of which one copy is in use."""
    old, new = copy_of(disk(sequence=4)), copy_of(disk(sequence=5, label="newer"))
    low, high = copy_of(disk(sequence=255)), copy_of(disk(sequence=256))
    zeros = bytes(len(old))
    old_home, new_home = copy_of(home(sequence=1)), copy_of(home(sequence=2))
    other_kind = copy_of(home(sequence=9))
    cases = {
        "newer-first": ("sequences 5 and 4", new, old, "first", 5),
        "newer-second": ("sequences 4 and 5", old, new, "second", 5),
        "home-newer-first": ("a home, sequences 2 and 1", new_home, old_home, "first", 2),
        "home-newer-second": ("a home, sequences 1 and 2", old_home, new_home, "second", 2),
        "sequence-is-little-endian": ("sequences 255 and 256", low, high, "second", 256),
        "sequence-is-unsigned": ("sequences 2^63 and 4", copy_of(disk(sequence=2**63)), old, "first", 2**63),
        "same": ("two copies with the same bytes, as at creation", old, old, "either", 4),
        "newer-damaged": ("the newer copy, the first, is damaged", flipped(new, 70), old, "second", 4),
        "older-damaged": ("the older copy, the second, is damaged", new, flipped(old, 70), "first", 5),
        "newer-torn": ("the first copy is half of one and half of another", new[:4096] + old[4096:], old,
                       "second", 4),
        "first-zeros": ("the first copy was overwritten with zeros", zeros, old, "second", 4),
        "second-zeros": ("the second copy was overwritten with zeros", old, zeros, "first", 4),
        "first-of-other-kind": ("the first copy is a home's, of a larger sequence", other_kind, old, "second", 4),
        "second-of-other-kind": ("the second copy is a home's, of a larger sequence", old, other_kind, "first", 4),
        "second-short": ("the file ends within the second copy", old, new[:5000], "first", 4),
        "second-short-in-magic": ("the file ends within the second copy's magic", old, new[:5], "first", 4),
        "newer-feature-flipped": ("a flipped bit among the features of the newer copy", flipped(new, 13), old,
                                  "second", 4),
        "newer-out-of-limits": ("the newer copy has sector size 0", copy_of(disk(sequence=5, sector_size=0)), old,
                                "second", 4),
    }
    return {name: VectorFile((("expect", "ok"), ("why", why), ("kind", kind_of(name)), ("use", use),
                              ("sequence", str(sequence))), (first, second))
            for name, (why, first, second, use, sequence) in cases.items()}


def kind_of(name: str) -> str:
    """Those about homes say so at the beginning of their name."""
    return KIND_NAMES[HOME if name.startswith("home-") else DISK]


def refused_pairs() -> dict[str, VectorFile]:
    """Pairs of which no copy may be used."""
    old, other = copy_of(disk(sequence=4)), copy_of(disk(sequence=4, label="other"))
    newer = patched(disk(sequence=5), 8, b"\x02\x00")
    featured = patched(disk(sequence=5), 12, b"\x02\x00\x00\x00")
    zeros = bytes(len(old))
    bad_hmac = seal(old, bytes(64))
    stranger = copy_of(disk(sequence=5, uuid=derive_uuid("another disk")))
    home_copy, disk_copy = copy_of(home()), copy_of(disk())
    cases = {
        "both-damaged": ("corrupt", "both copies are damaged", flipped(old, 70), flipped(old, 8000)),
        "same-sequence": ("corrupt", "the same sequence and another label", old, other),
        "same-sequence-other-hmac": ("corrupt", "the same sequence, and only HMAC and checksum differ", old, bad_hmac),
        "zeros-and-damaged": ("corrupt", "one copy is zeros, the other damaged", zeros, flipped(old, 70)),
        "damaged-and-zeros": ("corrupt", "one copy is damaged, the other zeros", flipped(old, 70), zeros),
        "other-uuid": ("corrupt", "copies of two components, the second of a larger sequence", old, stranger),
        "other-uuid-same-sequence": ("corrupt", "copies of two components, of one sequence",
                                     copy_of(disk(sequence=5)), stranger),
        "other-kind-and-damaged": ("corrupt", "one copy is a home's, the other damaged", home_copy, flipped(old, 70)),
        "both-of-home": ("foreign", "both copies are a home's", home_copy, home_copy),
        "home-of-disk": ("corrupt", "a disk's copy where a home's should be", disk_copy, zeros),
        "home-both-zeros": ("corrupt", "both copies of a home are zeros", zeros, zeros),
        "both-zeros": ("foreign", "both copies are zeros", zeros, zeros),
        "first-too-new": ("unsupported", "the first copy is of version 2", newer, old),
        "second-too-new": ("unsupported", "the second copy is of version 2", old, newer),
        "second-too-new-older": ("unsupported", "the copy of version 2 has the smaller sequence", old,
                                 patched(disk(sequence=3), 8, b"\x02\x00")),
        "second-unknown-feature": ("unsupported", "the second copy has an unknown feature", old, featured),
        "both-too-new": ("unsupported", "both copies are of version 2", newer, newer),
        "damaged-and-too-new": ("unsupported", "one copy is damaged, the other of version 2", flipped(old, 70),
                                newer),
        "zeros-and-too-new": ("unsupported", "one copy is zeros, the other of version 2", zeros, newer),
    }
    return {name: VectorFile((("expect", expect), ("why", why), ("kind", kind_of(name))), (first, second))
            for name, (expect, why, first, second) in cases.items()}


def wrap_vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    disk_wrapped, home_wrapped = wrap(KEK, DISK_DEK), wrap(KEK, HOME_DEK)
    check = key_check(KEK)
    equal_halves = derive("half", 32) * 2
    cases = {
        "disk": ("ok", "the DEK of a disk", DISK, KEK, check, disk_wrapped),
        "home": ("ok", "the DEK of a home", HOME, KEK, check, home_wrapped),
        "kek-wrong": ("key-rejected", "another KEK", DISK, OTHER_KEK, check, disk_wrapped),
        "check-wrong": ("key-rejected", "one bit of the key check flipped", DISK, KEK, flipped(check, 7),
                        disk_wrapped),
        "first-byte-flipped": ("corrupt", "one bit of the first byte flipped", DISK, KEK, check,
                               flipped(disk_wrapped, 0)),
        "last-byte-flipped": ("corrupt", "one bit of the last byte flipped", DISK, KEK, check,
                              flipped(disk_wrapped, 71)),
        "home-flipped": ("corrupt", "one bit of a home's flipped", HOME, KEK, check, flipped(home_wrapped, 20)),
        "not-padded": ("corrupt", "wrapped by KW of RFC 3394, not KWP", DISK, KEK, check,
                       aes_key_wrap(KEK, DISK_DEK)),
        "disk-63": ("corrupt", "a DEK of 63 bytes, which wraps into 72 too", DISK, KEK, check,
                    wrap(KEK, DISK_DEK[:63])),
        "home-31": ("corrupt", "a DEK of 31 bytes, which wraps into 40 too", HOME, KEK, check,
                    wrap(KEK, HOME_DEK[:31])),
        "halves-equal": ("corrupt", "K1 and K2 of the DEK are equal", DISK, KEK, check, wrap(KEK, equal_halves)),
        "check-of-another": ("corrupt", "the key check of this KEK on a DEK that another wrapped", DISK, KEK, check,
                             wrap(OTHER_KEK, DISK_DEK)),
    }
    return {name: wrap_vector(*case) for name, case in cases.items()} | shared_vectors()


def shared_vectors() -> dict[str, VectorFile]:
    """Those of KEKs that are made of a provider's key and a share."""
    share, other_share = derive("share", 32), derive("another share", 32)
    wrapped, check = wrap(shared_kek(KEK, share), DISK_DEK), shared_key_check(KEK, share)
    of_home = wrap(shared_kek(KEK, share), HOME_DEK)
    plain = wrap(KEK, DISK_DEK)
    cases = {
        "share-disk": ("ok", "the DEK of a disk, with a share", DISK, KEK, check, wrapped, share),
        "share-home": ("ok", "the DEK of a home, with a share", HOME, KEK, check, of_home, share),
        "share-wrong": ("key-rejected", "another share", DISK, KEK, check, wrapped, other_share),
        "share-missing": ("key-rejected", "no share, and the slot is of one", DISK, KEK, check, wrapped, b""),
        "share-needless": ("key-rejected", "a share, and the slot is of none", DISK, KEK, key_check(KEK), plain, share),
        "share-kek-wrong": ("key-rejected", "another key of the provider", DISK, OTHER_KEK, check, wrapped, share),
        "share-flipped": ("corrupt", "one bit of what a KEK with a share wrapped", DISK, KEK, check,
                          flipped(wrapped, 9), share),
    }
    return {name: wrap_vector(*case) for name, case in cases.items()}


def wrap_vector(expect: str, why: str, kind: int, kek: bytes, check: bytes, wrapped: bytes,
                share: bytes = b"") -> VectorFile:
    """The vector of one wrapped DEK."""
    fields = [("expect", expect), ("why", why), ("kind", KIND_NAMES[kind]), ("kek", kek.hex()),
              ("check", check.hex())]
    if share:
        fields.append(("share", share.hex()))
    if expect == "ok":
        fields.append(("dek", (HOME_DEK if kind == HOME else DISK_DEK).hex()))
    return VectorFile(tuple(fields), (wrapped,))
