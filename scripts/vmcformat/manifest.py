"""Manifests of homes: docs/FORMAT.md, section 17."""

import struct
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from . import home_file
from .errors import Corrupt, Unsupported
from .header import demand

MAGIC = b"VMCRYPTT"
VERSIONS = 1, 2
FILE_ID = b"manifest of home"
HEAD = struct.Struct("<8sHB5xQQ16s32sI4xQ")
CLOSED, OPEN = 1, 2
LOG, NOTE, ENTRY = 1, 2, 3
KINDS = range(1, 7)


@dataclass(frozen=True)
class Manifest:
    """The fields of the head, and the contents of the records by their types."""

    uuid: UUID
    counter: int
    state: int
    time: int
    logs: tuple[tuple[int, int, bytes, str], ...] = ()
    notes: tuple[tuple[int, str], ...] = ()
    entries: tuple[tuple[int, bytes, bytes, bytes, bytes], ...] = ()
    version: int = 2

    def records(self) -> list[tuple[int, bytes]]:
        """Type and content of each record."""
        logs = [(LOG, struct.pack("<BQ32s", number, sequence, line) + log.encode())
                for number, sequence, line, log in self.logs]
        notes = [(NOTE, struct.pack("<Q", time) + text.encode()) for time, text in self.notes]
        entries = [(ENTRY, struct.pack("<B16s32s32s", kind, ident, content, values) + path)
                   for kind, ident, content, values, path in self.entries]
        return logs + notes + entries


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162."""
    if len(leaves) < 2:
        return sha256(b"\0" + leaves[0]).digest() if leaves else sha256(b"").digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def encode(manifest: Manifest) -> bytes:
    """Its plaintext."""
    return framed(manifest, manifest.records())


def framed(manifest: Manifest, records: list[tuple[int, bytes]]) -> bytes:
    """A head that fits these records, and those."""
    leaves = [struct.pack("<BI", kind, len(content)) + content for kind, content in records]
    body = b"".join(leaves)
    head = HEAD.pack(MAGIC, manifest.version, manifest.state, manifest.counter, manifest.time, manifest.uuid.bytes,
                     tree_hash(leaves), len(leaves), len(body))
    return head + body


def decode(data: bytes) -> Manifest:
    """Everything that is not as section 17 says is refused."""
    demand(data[:8] == MAGIC, "not a manifest")
    demand(len(data) >= HEAD.size, "the head is cut off")
    _, version, state, counter, time, uuid, root, count, body_len = HEAD.unpack_from(data)
    if version not in VERSIONS:
        raise Unsupported(f"version {version}")
    demand(not any(data[11:16]) and not any(data[84:88]), "reserved bytes are set")
    demand(state in (CLOSED, OPEN), f"state {state}")
    demand(counter > 0, "counter 0")
    demand(len(data) == HEAD.size + body_len, "another length")
    rest, leaves, records = data[HEAD.size:], [], []
    for _ in range(count):
        demand(len(rest) >= 5, "a record is cut off")
        kind, length = struct.unpack_from("<BI", rest)
        demand(len(rest) >= 5 + length, "a record is cut off")
        records.append((kind, rest[5:5 + length]))
        leaves.append(rest[:5 + length])
        rest = rest[5 + length:]
    demand(not rest, "bytes after the last record")
    demand(tree_hash(leaves) == root, "another root")
    kinds = [kind for kind, _ in records]
    demand(kinds == sorted(kinds) and set(kinds) <= {LOG, NOTE, ENTRY}, "types of records")
    manifest = Manifest(UUID(bytes=uuid), counter, state, time,
                        tuple(read_log(content) for kind, content in records if kind == LOG),
                        tuple(read_note(content) for kind, content in records if kind == NOTE),
                        tuple(read_entry(content) for kind, content in records if kind == ENTRY), version)
    paths = [entry[4] for entry in manifest.entries]
    demand(paths == sorted(set(paths)), "paths out of order")
    return manifest


def text(data: bytes) -> str:
    """UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Corrupt("not UTF-8") from error


def read_log(content: bytes) -> tuple[int, int, bytes, str]:
    """Class, sequence, hash, name."""
    demand(len(content) >= 41, "a log is cut off")
    return (*struct.unpack_from("<BQ32s", content), text(content[41:]))


def read_note(content: bytes) -> tuple[int, str]:
    """Time and text."""
    demand(len(content) >= 8, "a note is cut off")
    return int.from_bytes(content[:8], "little"), text(content[8:])


def read_entry(content: bytes) -> tuple[int, bytes, bytes, bytes, bytes]:
    """Kind, id, content, values, path."""
    demand(len(content) >= 81, "an entry is cut off")
    demand(content[0] in KINDS, f"an entry of kind {content[0]}")
    return (*struct.unpack_from("<B16s32s32s", content), content[81:])


def fields(manifest: Manifest) -> list[tuple[str, str]]:
    """What a manifest says, as lines."""
    return [("version", str(manifest.version)), ("uuid", str(manifest.uuid)), ("counter", str(manifest.counter)),
            ("open", "yes" if manifest.state == OPEN else "no"), ("time", str(manifest.time)),
            *(("log", f"{number} {sequence} {line.hex()} {log}") for number, sequence, line, log in manifest.logs),
            *(("note", f"{time} {note}") for time, note in manifest.notes),
            *(("entry", " ".join((str(kind), ident.hex(), content.hex(), values.hex(), path.hex())).rstrip())
              for kind, ident, content, values, path in manifest.entries)]


def file_state(backing: bytes, dek: bytes, version: int = 2) -> bytes:
    """The state of a home file, as manifests of a version have it."""
    def read_at(at: int, count: int) -> bytes:
        return backing[at:at + count]

    header = home_file.decode_header(read_at(0, home_file.HEADER_LEN), dek)
    length = home_file.plain_len(len(backing))
    state = sha256(length.to_bytes(8, "little"))
    if version == 2:
        known = (header.known_len, header.filled_len) if header else (0, 0)
        state.update(struct.pack("<QQ", *known))
    for block in range(-(-length // home_file.BLOCK)):
        counts = counting(read_at, header, block)
        is_hole = counts and not any(any(read_at(home_file.place_at(block, place), home_file.BLOCK)) for place, _ in counts)
        if counts and not (version == 2 and is_hole and header and block * home_file.BLOCK >= header.filled_len):
            state.update(block.to_bytes(8, "little") + counts[0][1].encode()[:48])
    return state.digest()


def counting(read_at: home_file.ReadAt, header: home_file.Header | None, block: int) -> list[tuple[int, home_file.Entry]]:
    """The entries of a block with their places: first the one that is read, or else the newer one."""
    pair = home_file.decode_pair(read_at(home_file.pair_at(block), home_file.PAIR_LEN))
    entries = sorted(pair, key=lambda item: (item[1].version, item[0]), reverse=True)
    for number, (place, entry) in enumerate(entries if header else []):
        cipher = read_at(home_file.place_at(block, place), home_file.BLOCK)
        for one in (entry, home_file.following(read_at, block, entry)):
            if home_file.open_entry(header.keys, block, one, cipher) is not None:
                return [(place, one), *entries[:number], *entries[number + 1:]]
    return entries
