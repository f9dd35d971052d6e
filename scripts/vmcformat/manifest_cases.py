"""Vectors of manifests, of a home file that is one, and of the states of home files."""

from dataclasses import replace
from uuid import UUID

from .header_bad import flipped
from .home_cases import KEYS, Backing
from .home_file import BLOCK, SPARE, cipher_len, encode_header, file_keys, place_at, seal_block
from .manifest import CLOSED, ENTRY, FILE_ID, HEAD, NOTE, OPEN, Manifest, encode, fields, file_state, framed
from .samples import HOME_DEK
from .vectorfile import VectorFile, derive, derive_uuid

HOME = UUID(bytes=derive_uuid("home of a manifest"))
EMPTY = Manifest(HOME, 1, CLOSED, 0)
WHOLE = Manifest(
    HOME, 7, OPEN, 1764097200,
    ((1, 12, derive("line 12", 32), "host:/var/log/vmcryptfs/events.jsonl"),
     (2, 3, derive("line 3", 32), "host:/var/log/vmcryptfs/events.jsonl")),
    ((1764097100, "vm.nvram was removed"),),
    ((1, bytes(16), bytes(32), derive("values", 32), b""),
     (3, bytes(16), bytes(32), bytes(32), b"empty"),
     (1, bytes(16), bytes(32), bytes(32), b"logs"),
     (2, derive("log", 16), derive("state of a log", 32), bytes(32), b"logs/vm.log"),
     (5, bytes(16), derive("text", 32), bytes(32), b"newest"),
     (6, bytes(16), bytes(32), bytes(32), b"pipe"),
     (4, derive_uuid("a disk"), bytes(32), bytes(32), b"root.raw"),
     (2, derive("file", 16), derive("state", 32), derive("its values", 32), b"vm\xff.vmx")))


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {**good_vectors(), **bad_vectors(), **state_vectors()}


def good_vectors() -> dict[str, VectorFile]:
    """Manifests that are read."""
    cases = {"empty": ("no record at all", EMPTY), "whole": ("records of every type, entries of every kind", WHOLE),
             "one-leaf": ("a tree of one leaf", replace(WHOLE, logs=(), notes=(), entries=WHOLE.entries[:1])),
             "version-1": ("a manifest of version 1", replace(WHOLE, version=1))}
    made = {name: VectorFile((("expect", "ok"), ("why", why), ("what", "manifest"), *fields(manifest)),
                             (encode(manifest),)) for name, (why, manifest) in cases.items()}
    made["sealed"] = VectorFile((("expect", "ok"), ("why", "the home file that a manifest is"), ("what", "file"),
                                 ("dek", HOME_DEK.hex()), *fields(WHOLE)), (sealed(encode(WHOLE)),))
    return made


def sealed(plaintext: bytes, dek: bytes = HOME_DEK) -> bytes:
    """A home file with the id of manifests."""
    keys = file_keys(dek, FILE_ID)
    backing = Backing(len(plaintext), keys)
    backing.put(0, encode_header(keys, len(plaintext), filled_len=len(plaintext)))
    for block in range(-(-len(plaintext) // BLOCK)):
        nonce = derive(f"nonce of manifest {block}", 24)
        entry, cipher = seal_block(keys, block, 1, nonce, plaintext[block * BLOCK:][:BLOCK])
        backing.entry(block, 0, entry)
        backing.put(place_at(block, 0), cipher)
    assert len(backing.data) == cipher_len(len(plaintext))
    return bytes(backing.data)


def bad_vectors() -> dict[str, VectorFile]:
    """Manifests with one defect."""
    good, records = encode(WHOLE), WHOLE.records()
    entry = records[-1][1]
    cases = {
        "magic-wrong": ("corrupt", "the magic of a home file", b"VMCRYPTH" + good[8:]),
        "version-0": ("unsupported", "version 0", good[:8] + b"\0" + good[9:]),
        "version-3": ("unsupported", "version 3", good[:8] + b"\x03" + good[9:]),
        "state-0": ("corrupt", "state 0", framed(replace(WHOLE, state=0), records)),
        "state-3": ("corrupt", "state 3", framed(replace(WHOLE, state=3), records)),
        "counter-0": ("corrupt", "counter 0", framed(replace(WHOLE, counter=0), records)),
        "reserved-11": ("corrupt", "reserved byte 11 is 1", good[:11] + b"\x01" + good[12:]),
        "reserved-84": ("corrupt", "reserved byte 84 is 1", good[:84] + b"\x01" + good[85:]),
        "root-wrong": ("corrupt", "one bit of the root flipped", flipped(good, 48)),
        "record-changed": ("corrupt", "one bit of a path flipped", flipped(good, len(good) - 1)),
        "count-smaller": ("corrupt", "a record fewer", good[:80] + bytes([len(records) - 1]) + good[81:]),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "long": ("corrupt", "a byte follows", good + b"\0"),
        "head-cut": ("corrupt", "the file ends within the head", good[:HEAD.size - 1]),
        "type-4": ("corrupt", "a record of type 4", framed(WHOLE, [*records, (4, entry)])),
        "type-0": ("corrupt", "a record of type 0", framed(WHOLE, [(0, b""), *records])),
        "types-disorder": ("corrupt", "a note after an entry", framed(WHOLE, [*records, (NOTE, records[2][1])])),
        "path-twice": ("corrupt", "two entries of one path", framed(WHOLE, [*records, (ENTRY, entry)])),
        "paths-disorder": ("corrupt", "entries out of order", framed(WHOLE, [*records[:-2], *records[:-3:-1]])),
        "kind-0": ("corrupt", "an entry of kind 0", framed(WHOLE, [*records[:-1], (ENTRY, b"\0" + entry[1:])])),
        "kind-7": ("corrupt", "an entry of kind 7", framed(WHOLE, [*records[:-1], (ENTRY, b"\7" + entry[1:])])),
        "entry-cut": ("corrupt", "an entry of 80 bytes", framed(WHOLE, [*records[:-1], (ENTRY, entry[:80])])),
        "note-not-utf-8": ("corrupt", "a note that is not UTF-8", framed(EMPTY, [(NOTE, bytes(8) + b"\xff")])),
        "note-cut": ("corrupt", "a note of 7 bytes", framed(EMPTY, [(NOTE, bytes(7))])),
    }
    return {name: VectorFile((("expect", expect), ("why", why), ("what", "manifest"), ("uuid", str(HOME))), (data,))
            for name, (expect, why, data) in cases.items()}


def state_vectors() -> dict[str, VectorFile]:
    """Home files, and the state of each."""
    hole = Backing(3 * BLOCK).version(1)
    two = Backing(BLOCK).version(0).version(0, SPARE, 2)
    cases = {
        "state-one-byte": ("one block that is not full", Backing(1).version(0)),
        "state-hole": ("a block between two holes", hole),
        "state-spare": ("the spare place is newer", Backing(BLOCK).version(0).version(0, SPARE, 2)),
        "state-main": ("the main place is newer", Backing(BLOCK).version(0, version=3).version(0, SPARE, 2)),
        "state-spoiled": ("the newer version is spoiled, so the older one is read",
                          Backing(BLOCK).version(0).version(0, SPARE, 2).flip(place_at(0, SPARE))),
        "state-successor": ("an overwritten place, whose entry does not say so yet",
                            Backing(BLOCK).version(0).overwritten(0)),
        "state-second-group": ("a block in the second group", Backing(65 * BLOCK - 5).version(64)),
        "state-known": ("a header that knows of two filled blocks of three",
                        Backing(3 * BLOCK, filled_len=2 * BLOCK).version(0).version(1).version(2)),
        "state-zeros": ("zeros in the place of a block past filled_len, which is a hole thereby",
                        Backing(2 * BLOCK, filled_len=BLOCK).version(0).version(1).zeros(1)),
        "state-zeros-filled": ("zeros in the place of a block below filled_len, which is damage",
                               Backing(2 * BLOCK, filled_len=2 * BLOCK).version(0).version(1).zeros(1)),
        "state-zeros-twice": ("zeros in both places of a block", two.zeros(0).zeros(0, SPARE)),
        "state-zeros-damaged": ("zeros in one place of a block, noise in the other",
                                Backing(BLOCK).version(0).version(0, SPARE, 2).zeros(0).flip(place_at(0, SPARE))),
        "state-sparse-start": ("a block that begins with zeros and is no hole", Backing(BLOCK).version(0)
                               .put(place_at(0, 0), bytes(64))),
        "state-file-version-1": ("a file whose header knows no length", Backing(BLOCK).of_first_version().version(0)),
    }
    return {name: VectorFile((("expect", "ok"), ("why", why), ("what", "state"), ("dek", HOME_DEK.hex()),
                              ("id", KEYS.file_id.hex()), ("state", file_state(bytes(backing.data), HOME_DEK).hex()),
                              ("state_1", file_state(bytes(backing.data), HOME_DEK, 1).hex())),
                             (bytes(backing.data),)) for name, (why, backing) in cases.items()}
