"""Vectors of home files and of a home's small values; a bad one has one defect."""

from dataclasses import dataclass, field, replace

from .home_file import (
    BLOCK,
    HEADER_LEN,
    MAIN,
    SPARE,
    TARGET_BOUND,
    Entry,
    FileKeys,
    cipher_len,
    encode_header,
    file_keys,
    link_text,
    pair_at,
    place_at,
    seal_block,
    seal_value,
    successor_at,
    xattr_bound,
)
from .samples import HOME_DEK
from .vectorfile import VectorFile, derive

FILE_ID = derive("home file id", 16)
KEYS = file_keys(HOME_DEK, FILE_ID)
OTHER_FILE = file_keys(HOME_DEK, derive("another home file id", 16))
OTHER_HOME = file_keys(derive("another home dek", 32), FILE_ID)


def plain(block: int, version: int = 1) -> bytes:
    """A block's plaintext: one byte many times keeps the files short."""
    return bytes([0x40 + block % 32 + version]) * BLOCK


@dataclass
class Backing:
    """A backing file that is being put together."""

    length: int
    keys: FileKeys = KEYS
    known_len: int | None = None
    filled_len: int = 0
    data: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.data = bytearray(cipher_len(self.length) if self.length else HEADER_LEN)
        known_len = self.length if self.known_len is None else self.known_len
        self.put(0, encode_header(self.keys, known_len, filled_len=self.filled_len))

    def of_first_version(self) -> "Backing":
        """Replace the header."""
        return self.put(0, encode_header(self.keys, version=1))

    def of_second_version(self) -> "Backing":
        """Replace the header."""
        return self.put(0, encode_header(self.keys, self.length, version=2))

    def put(self, at: int, data: bytes) -> "Backing":
        """Replace bytes within the file."""
        self.data[at:at + len(data)] = data
        return self

    def zeros(self, block: int, place: int = MAIN) -> "Backing":
        """Zeros in the place of a block; its entry stays."""
        return self.put(place_at(block, place), bytes(BLOCK))

    def flip(self, at: int) -> "Backing":
        """Change one bit."""
        self.data[at] ^= 1
        return self

    def version(self, block: int, place: int = MAIN, version: int = 1, keys: FileKeys = KEYS,
                sealed_as: int | None = None) -> "Backing":
        """Write a version of a block; `sealed_as` is another block's number that it is sealed under."""
        nonce = derive(f"nonce {block} {place} {version}", 24)
        text = plain(block, version)[:self.length - block * BLOCK]
        entry, cipher = seal_block(keys, block if sealed_as is None else sealed_as, version, nonce, text)
        self.put(place_at(block, place), cipher)
        return self.entry(block, place, entry)

    def entry(self, block: int, place: int, entry: Entry) -> "Backing":
        """Write an entry alone."""
        return self.put(pair_at(block) + 64 * place, entry.encode())

    def entry_of(self, block: int, place: int = MAIN) -> Entry:
        """The entry that is there, to be changed."""
        raw = self.data[pair_at(block) + 64 * place:][:64]
        return Entry(int.from_bytes(raw[:8], "little"), bytes(raw[8:32]), bytes(raw[32:48]))

    def overwritten(self, block: int, place: int = MAIN, *, text: int = 9, later: int = 0) -> "Backing":
        """Overwrite a place without its entry, once the entry's successor is there; as `later` versions than that."""
        entry = self.entry_of(block, place)
        nonce = derive(f"nonce {block} {place} successor", 24)
        after, cipher = seal_block(self.keys, block, entry.version + later, nonce,
                                   plain(block, text)[:self.length - block * BLOCK])
        return self.put(successor_at(block), entry.tag + nonce + after.tag).put(place_at(block, place), cipher)

    def without_data(self, block: int, place: int = MAIN) -> "Backing":
        """Turn a place into a hole."""
        return self.put(place_at(block, place), bytes(BLOCK))

    def plaintext(self, versions: dict[int, int]) -> bytes:
        """What it reads as, from the version of each block that is not a hole."""
        blocks = range(-(-self.length // BLOCK))
        whole = b"".join(plain(block, versions[block]) if block in versions else bytes(BLOCK) for block in blocks)
        return whole[:self.length]


def file_vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    cases = {**whole_cases(), **version_cases(), **successor_cases()}
    good = {name: accepted(*case) for name, case in cases.items()}
    headers = {name: refused(expect, why, "open", backing) for name, (expect, why, backing) in header_cases().items()}
    blocks = {name: refused("corrupt", why, f"block {block}", backing)
              for name, (why, block, backing) in block_cases().items()}
    return {**good, **headers, **blocks}


def accepted(why: str, backing: Backing, versions: dict[int, int]) -> VectorFile:
    """A file that reads."""
    fields = (("expect", "ok"), ("why", why), ("dek", HOME_DEK.hex()), ("plain_len", str(backing.length)))
    plaintext = backing.plaintext(versions)
    return VectorFile(fields, (bytes(backing.data), *([plaintext] if plaintext else [])))


def refused(expect: str, why: str, at: str, backing: Backing) -> VectorFile:
    """A file that does not."""
    return VectorFile((("expect", expect), ("why", why), ("dek", HOME_DEK.hex()), ("at", at)), (bytes(backing.data),))


def whole_cases() -> dict[str, tuple[str, Backing, dict[int, int]]]:
    """Lengths, places and holes."""
    across = Backing(65 * BLOCK + 7).version(63).version(64).version(65)
    lost = Backing(BLOCK + 5)
    lost.put(0, bytes(HEADER_LEN))
    return {
        "header-alone": ("an empty file that has a header", Backing(0), {}),
        "one-byte": ("one byte; the rest of the block is sealed zeros", Backing(1).version(0), {0: 1}),
        "one-block": ("one whole block", Backing(BLOCK).version(0), {0: 1}),
        "two-blocks": ("a second block that is not whole", Backing(BLOCK + 1000).version(0).version(1), {0: 1, 1: 1}),
        "hole-within": ("a block without an entry", Backing(3 * BLOCK).version(0).version(2), {0: 1, 2: 1}),
        "hole-at-end": ("grown by a hole", Backing(2 * BLOCK + 3).version(0), {0: 1}),
        "two-groups": ("the last block of a group and two of the next", across, {63: 1, 64: 1, 65: 1}),
        "never-synced": ("known to have no byte", Backing(BLOCK + 5, known_len=0).version(0).version(1), {0: 1, 1: 1}),
        "grown-since": ("longer than it is known to be", Backing(2 * BLOCK, known_len=BLOCK - 1).version(0), {0: 1}),
        "version-1": ("the version before there was a known length",
                      Backing(BLOCK + 9).version(0).version(1).of_first_version(), {0: 1, 1: 1}),
        "version-2": ("the version before there was a filled length",
                      Backing(2 * BLOCK).version(0).of_second_version(), {0: 1}),
        "filled": ("filled to its end", Backing(BLOCK + 9, filled_len=BLOCK + 9).version(0).version(1), {0: 1, 1: 1}),
        "filled-then-hole": ("filled up to a hole",
                             Backing(3 * BLOCK, filled_len=BLOCK).version(0).version(2), {0: 1, 2: 1}),
        "header-lost": ("a header of zeros: a hole of the length that the backing file tells", lost, {}),
    }


def version_cases() -> dict[str, tuple[str, Backing, dict[int, int]]]:
    """Two versions of a block, and what a crash leaves of them."""
    def both() -> Backing:
        return Backing(BLOCK).version(0).version(0, SPARE, 2)

    never = Backing(BLOCK).version(0).without_data(0)
    largest = Backing(BLOCK).version(0)
    nonce = derive("nonce of the largest version", 24)
    entry, cipher = seal_block(KEYS, 0, 2**64 - 1, nonce, plain(0))
    largest.put(place_at(0, MAIN), cipher).entry(0, MAIN, entry)
    return {
        "spare-newer": ("two versions, the newer one in the spare place", both(), {0: 2}),
        "main-newer": ("two versions, the newer one in the main place",
                       Backing(BLOCK).version(0, SPARE, 2).version(0, MAIN, 3), {0: 3}),
        "spare-alone": ("one version, in the spare place", Backing(BLOCK).version(0, SPARE, 2), {0: 2}),
        "newer-torn": ("the newer version was torn: the older one serves", both().flip(place_at(0, SPARE)), {0: 1}),
        "newer-without-data": ("the newer version's data never reached the medium",
                               both().without_data(0, SPARE), {0: 1}),
        "without-data": ("an entry whose place holds nothing but zeros is a hole", never, {}),
        "version-largest": ("version 2^64 - 1", largest, {0: 1}),
    }


def successor_cases() -> dict[str, tuple[str, Backing, dict[int, int]]]:
    """What a process leaves that is killed while it overwrites a place."""
    said = Backing(BLOCK).version(0)
    cipher = bytes(said.data[place_at(0, MAIN):][:BLOCK])
    return {
        "successor-said": ("a successor, and a place that is not overwritten yet",
                           said.overwritten(0).put(place_at(0, MAIN), cipher), {0: 1}),
        "successor": ("an overwritten place, and an entry that does not say so yet",
                      Backing(BLOCK).version(0).overwritten(0), {0: 9}),
        "successor-of-newer": ("the same with the newer one of two versions",
                               Backing(BLOCK).version(0).version(0, SPARE, 2).overwritten(0, SPARE), {0: 9}),
        "successor-of-older": ("the older one of two versions was overwritten, and the newer one torn",
                               Backing(BLOCK).version(0).version(0, SPARE, 2).overwritten(0)
                               .flip(place_at(0, SPARE)), {0: 9}),
        "successor-last": ("the last block of the first group, and the first one of the second",
                           Backing(64 * BLOCK + 7).version(63).version(64).overwritten(63).overwritten(64),
                           {63: 9, 64: 9}),
        "successor-past": ("a successor of what was there before",
                           Backing(BLOCK).version(0).overwritten(0).version(0, MAIN, 1), {0: 1}),
    }


def header_cases() -> dict[str, tuple[str, str, Backing]]:
    """Headers that are refused when the file is opened."""
    def file() -> Backing:
        return Backing(BLOCK).version(0)

    return {
        "magic-wrong": ("corrupt", "the magic's last letter", file().flip(7)),
        "version-4": ("unsupported", "a later version", file().put(0, encode_header(KEYS, BLOCK, 4))),
        "version-1-reserved-set": ("corrupt", "a known length in a header of version 1", file().of_first_version().flip(64)),
        "version-1-claimed": ("corrupt", "version 1, under the hmac of version 2",
                              file().put(8, b"\1").put(64, bytes(40))),
        "version-2-filled-len": ("corrupt", "a filled length in a header of version 2",
                                 file().of_second_version().flip(104)),
        "version-2-claimed": ("corrupt", "version 2, under the hmac of version 3", file().flip(8)),
        "filled-len-smaller": ("corrupt", "another filled length than the hmac was made for",
                               Backing(BLOCK, filled_len=BLOCK).version(0).put(104, bytes(8))),
        "known-len-smaller": ("corrupt", "another known length than the hmac was made for", file().flip(64)),
        "known-len-hmac-wrong": ("corrupt", "a bit of the known length's hmac", file().flip(103)),
        "known-len-other-file": ("corrupt", "the known length of another file",
                                 file().put(64, encode_header(OTHER_FILE, BLOCK)[64:112])),
        "cut-to-nothing": ("corrupt", "nothing is left of a file that had a byte", Backing(0, known_len=1)),
        "reserved-set": ("corrupt", "a reserved byte between version and id", file().flip(10)),
        "file-id-changed": ("corrupt", "another file id than the hmac was made for", file().flip(16)),
        "hmac-wrong": ("corrupt", "a bit of the hmac", file().flip(63)),
        "reserved-end-set": ("corrupt", "a reserved byte behind the hmac", file().flip(HEADER_LEN - 1)),
        "header-cut": ("corrupt", "the file ends within its header, whose hmac is whole", cut_hmac(file())),
        "other-home": ("corrupt", "a file of another home", Backing(BLOCK, OTHER_HOME).version(0, keys=OTHER_HOME)),
    }


def cut_hmac(backing: Backing) -> Backing:
    """A file that ends one byte before its hmac does, where that byte is not zero."""
    del backing.data[63 if backing.data[63] else 62:]
    return backing


def block_cases() -> dict[str, tuple[str, int, Backing]]:
    """Blocks that do not authenticate; all others of the file would."""
    def file() -> Backing:
        return Backing(2 * BLOCK).version(0).version(1)

    def entry(**changes: object) -> Backing:
        backing = file()
        return backing.entry(1, MAIN, replace(backing.entry_of(1), **changes))  # type: ignore[arg-type]

    older = Backing(BLOCK).version(0).version(0, SPARE, 2)
    good = file().entry_of(1)
    return {
        "data-flipped": ("a bit of the ciphertext", 1, file().flip(place_at(1, MAIN) + 4000)),
        "tag-flipped": ("a bit of the tag", 1, entry(tag=bytes([good.tag[0] ^ 1]) + good.tag[1:])),
        "nonce-first-half": ("a bit of the nonce's first half", 1,
                             entry(nonce=bytes([good.nonce[0] ^ 1]) + good.nonce[1:])),
        "nonce-second-half": ("a bit of the nonce's second half", 1,
                              entry(nonce=good.nonce[:-1] + bytes([good.nonce[-1] ^ 1]))),
        "version-changed": ("another version than was sealed", 1, entry(version=2)),
        "version-0": ("version 0, which is never sealed", 1, entry(version=0)),
        "entry-reserved-set": ("a reserved byte of the entry", 1, entry(reserved=bytes(15) + b"\1")),
        "block-moved": ("block 0, sealed as block 1", 0, Backing(2 * BLOCK).version(0, sealed_as=1).version(1)),
        "block-of-other-file": ("a block of another file of the home", 1,
                                Backing(2 * BLOCK).version(0).version(1, keys=OTHER_FILE)),
        "both-damaged": ("both versions", 0, older.flip(place_at(0, MAIN)).flip(place_at(0, SPARE))),
        "damaged-beside-empty": ("the newer version; the older one's place holds zeros", 0,
                                 Backing(BLOCK).version(0).version(0, SPARE, 2).without_data(0)
                                 .flip(place_at(0, SPARE))),
        "cut-off-by-a-byte": ("a byte less than it is known to have", 1,
                              Backing(2 * BLOCK - 1, known_len=2 * BLOCK).version(0).version(1)),
        "cut-off-by-a-block": ("a block less than it is known to have", 1,
                               Backing(2 * BLOCK, known_len=2 * BLOCK + 1).version(0).version(1)),
        "pair-missing": ("zeros instead of a pair, in what is filled", 1,
                         Backing(3 * BLOCK, filled_len=3 * BLOCK).version(0).version(2)),
        "data-missing": ("zeros instead of a place, in what is filled", 1,
                         Backing(3 * BLOCK, filled_len=BLOCK + 1).version(0).version(1).version(2).without_data(1)),
        "successor-of-another": ("a successor of another tag than the entry's", 1,
                                 file().overwritten(1).flip(successor_at(1))),
        "successor-tag-flipped": ("a bit of a successor's tag", 1, file().overwritten(1).flip(successor_at(1) + 55)),
        "successor-later": ("a successor that was sealed as a later version than the entry", 1,
                            file().overwritten(1, later=1)),
        "second-group": ("a block of the second group", 64, Backing(65 * BLOCK).version(64).flip(place_at(64, MAIN))),
    }


def value_vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    name, nonce = b"user.comment", derive("nonce of a value", 24)
    of_file = seal_value(HOME_DEK, xattr_bound(FILE_ID, name), nonce, b"a comment")
    of_folder = seal_value(HOME_DEK, xattr_bound(None, name), nonce, b"a comment")
    target = seal_value(HOME_DEK, TARGET_BOUND, nonce, b"../disks/root.qcow2")
    empty = seal_value(HOME_DEK, xattr_bound(FILE_ID, name), nonce, b"")
    foreign = seal_value(OTHER_HOME.encryption, TARGET_BOUND, nonce, b"x")
    flipped = target[:-1] + bytes([target[-1] ^ 1])
    return {
        "xattr-of-file": xattr("ok", "of a home file", of_file, FILE_ID, b"a comment"),
        "xattr-of-folder": xattr("ok", "of what has no id", of_folder, None, b"a comment"),
        "xattr-empty": xattr("ok", "an empty value", empty, FILE_ID, b""),
        "xattr-of-other-file": xattr("corrupt", "another file's", of_file, OTHER_FILE.file_id),
        "xattr-of-file-on-folder": xattr("corrupt", "a file's, on what has no id", of_file, None),
        "xattr-other-name": xattr("corrupt", "another attribute's", of_file, FILE_ID, name=b"user.comments"),
        "xattr-form-2": xattr("corrupt", "another form", b"\2" + of_file[1:], FILE_ID),
        "xattr-short": xattr("corrupt", "a byte shorter than an empty value", empty[:-1], FILE_ID),
        "target": link("ok", "a target", link_text(target), b"../disks/root.qcow2"),
        "target-flipped": link("corrupt", "a bit of the tag", link_text(flipped)),
        "target-of-other-home": link("corrupt", "another home's", link_text(foreign)),
        "target-plain": link("corrupt", "a link that no mount made", "../disks/root.qcow2"),
        "target-is-xattr": link("corrupt", "an attribute's value", link_text(of_file)),
    }


def xattr(expect: str, why: str, stored: bytes, file_id: bytes | None, value: bytes | None = None,
          name: bytes = b"user.comment") -> VectorFile:
    """The vector of an xattr's value."""
    fields = [("expect", expect), ("why", why), ("what", "xattr"), ("dek", HOME_DEK.hex()), ("name", name.decode())]
    fields += [] if file_id is None else [("file_id", file_id.hex())]
    fields += [("value", value.hex())] if value else []
    return VectorFile(tuple(fields), (stored,))


def link(expect: str, why: str, text: str, target: bytes | None = None) -> VectorFile:
    """The vector of a symbolic link's text."""
    fields = [("expect", expect), ("why", why), ("what", "target"), ("dek", HOME_DEK.hex()), ("text", text)]
    fields += [("target", target.decode())] if target else []
    return VectorFile(tuple(fields))
