"""Home files, and the small values of a home (FORMAT.md section 9)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import xaes
from .errors import Corrupt, Unsupported
from .keys import hkdf

MAGIC = b"VMCRYPTH"
VERSION = 3
WITHOUT_FILLED_LEN = 2
WITHOUT_KNOWN_LEN = 1
HEADER_LEN = 512
BLOCK = 4096
GROUP_BLOCKS = 64
GROUP_LEN = 536576
PAIR_LEN = 128
SUCCESSOR_LEN = 56
SPARE_AT = 12288
MAIN_AT = 274432
MAIN, SPARE = 0, 1

ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True)
class FileKeys:
    """What is derived for one file."""

    file_id: bytes
    encryption: bytes
    authentication: bytes


@dataclass(frozen=True)
class Entry:
    """One sealed version of a block."""

    version: int
    nonce: bytes
    tag: bytes
    reserved: bytes = bytes(16)

    def encode(self) -> bytes:
        """Its 64 bytes."""
        return self.version.to_bytes(8, "little") + self.nonce + self.tag + self.reserved


def file_keys(dek: bytes, file_id: bytes) -> FileKeys:
    """The keys of a file."""
    both = hkdf(file_id, dek, b"vmcryptfs v1 home file", 64)
    return FileKeys(file_id, both[:32], both[32:])


@dataclass(frozen=True)
class Header:
    """What a genuine header says."""

    keys: FileKeys
    known_len: int
    filled_len: int


def encode_header(keys: FileKeys, known_len: int = 0, version: int = VERSION, filled_len: int = 0) -> bytes:
    """A header of 512 bytes; one of the first version has no known length, one of the second no filled length."""
    head = MAGIC + version.to_bytes(2, "little") + bytes(6) + keys.file_id
    header = head + tag(keys, head)
    if version != WITHOUT_KNOWN_LEN:
        length = known_len.to_bytes(8, "little")
        filled = b"" if version == WITHOUT_FILLED_LEN else filled_len.to_bytes(8, "little")
        header += length + tag(keys, head + length + filled) + filled
    return header.ljust(HEADER_LEN, b"\0")


def tag(keys: FileKeys, data: bytes) -> bytes:
    """The HMAC of a part of a header."""
    return hmac.new(keys.authentication, data, hashlib.sha256).digest()


def decode_header(header: bytes, dek: bytes) -> Header | None:
    """The header; None for a file without one, which is a hole as a whole."""
    header = header.ljust(HEADER_LEN, b"\0")
    if not any(header):
        return None
    if header[:8] != MAGIC:
        raise Corrupt("not a home file")
    version = int.from_bytes(header[8:10], "little")
    if version not in (WITHOUT_KNOWN_LEN, WITHOUT_FILLED_LEN, VERSION):
        raise Unsupported(f"home file version {version}")
    end = {WITHOUT_KNOWN_LEN: 64, WITHOUT_FILLED_LEN: 104, VERSION: 112}[version]
    if any(header[10:16]) or any(header[end:]):
        raise Corrupt("reserved bytes of the header are set")
    keys = file_keys(dek, header[16:32])
    known_len, filled_len = (int.from_bytes(header[at:at + 8], "little") for at in (64, 104))
    if not hmac.compare_digest(encode_header(keys, known_len, version, filled_len), header):
        raise Corrupt("the header does not authenticate")
    return Header(keys, known_len, filled_len)


def pair_at(block: int) -> int:
    """Where the pair of a block lies."""
    group, number = divmod(block, GROUP_BLOCKS)
    return group * GROUP_LEN + (HEADER_LEN if group == 0 else BLOCK) + number * PAIR_LEN


def successor_at(block: int) -> int:
    """Where the successor of a block's entry lies."""
    group, number = divmod(block, GROUP_BLOCKS)
    return group * GROUP_LEN + (HEADER_LEN + GROUP_BLOCKS * PAIR_LEN if group == 0 else 0) + number * SUCCESSOR_LEN


def place_at(block: int, place: int) -> int:
    """Where a version of a block lies."""
    group, number = divmod(block, GROUP_BLOCKS)
    return group * GROUP_LEN + (MAIN_AT if place == MAIN else SPARE_AT) + number * BLOCK


def cipher_len(plain_len: int) -> int:
    """Backing length of a file that is not empty."""
    last = -(-plain_len // BLOCK) - 1
    return place_at(last, MAIN) + BLOCK + plain_len % BLOCK


def plain_len(backing: int) -> int:
    """L, from the backing length E."""
    group, within = divmod(backing, GROUP_LEN)
    blocks = group * GROUP_BLOCKS + max(0, within - MAIN_AT) // BLOCK
    rest = backing % BLOCK
    if rest and blocks and place_at(blocks - 1, MAIN) + BLOCK == backing - rest:
        return (blocks - 1) * BLOCK + rest
    return blocks * BLOCK


def associated(file_id: bytes, block: int, version: int) -> bytes:
    """What binds a block to its file, place and version."""
    return file_id + block.to_bytes(8, "little") + version.to_bytes(8, "little")


def seal_block(keys: FileKeys, block: int, version: int, nonce: bytes, plaintext: bytes) -> tuple[Entry, bytes]:
    """A version of a block: its entry and its ciphertext."""
    cipher, tag = xaes.seal(keys.encryption, nonce, plaintext.ljust(BLOCK, b"\0"),
                            associated(keys.file_id, block, version))
    return Entry(version, nonce, tag), cipher


def decode_pair(pair: bytes) -> list[tuple[int, Entry]]:
    """The entries of a pair with their places, the newer one first."""
    found = []
    for place, raw in enumerate((pair[:64], pair[64:])):
        if any(raw):
            found.append((place, Entry(int.from_bytes(raw[:8], "little"), raw[8:32], raw[32:48], raw[48:64])))
    # Equal versions: only one of them can be genuine, and which is tried first does not matter.
    return sorted(found, key=lambda item: item[1].version, reverse=True)


def following(read_at: ReadAt, block: int, entry: Entry) -> Entry | None:
    """What an entry becomes, if its successor is there."""
    raw = read_at(successor_at(block), SUCCESSOR_LEN).ljust(SUCCESSOR_LEN, b"\0")
    return Entry(entry.version, raw[16:40], raw[40:56]) if raw[:16] == entry.tag else None


def open_entry(keys: FileKeys, block: int, entry: Entry | None, cipher: bytes) -> bytes | None:
    """Plaintext of a place, if this entry is of it."""
    if entry is None or any(entry.reserved):
        return None
    return xaes.open_(keys.encryption, entry.nonce, cipher, entry.tag, associated(keys.file_id, block, entry.version))


def read_block(read_at: ReadAt, header: Header, block: int) -> bytes:
    """Plaintext of a block, by the five rules of "Reading a block"."""
    keys = header.keys
    entries = decode_pair(read_at(pair_at(block), PAIR_LEN).ljust(PAIR_LEN, b"\0"))
    empty = True
    for place, entry in entries:
        cipher = read_at(place_at(block, place), BLOCK).ljust(BLOCK, b"\0")
        if not any(cipher):
            continue
        empty = False
        for candidate in (entry, following(read_at, block, entry)):
            plain = open_entry(keys, block, candidate, cipher)
            if plain is not None:
                return plain
    if not empty or block * BLOCK < header.filled_len:
        raise DamagedBlock(block)
    return bytes(BLOCK)


class DamagedBlock(Corrupt):
    """A block that does not authenticate, is missing, or is the last one of a file that was cut off."""

    def __init__(self, block: int) -> None:
        super().__init__(f"block {block} is damaged")
        self.block = block


def read_file(read_at: ReadAt, backing: int, dek: bytes) -> tuple[Header | None, Iterator[bytes]]:
    """The file's header, and its plaintext block by block; the last one may be short."""
    header = decode_header(read_at(0, HEADER_LEN), dek)
    length = plain_len(backing)
    cut_off = header is not None and length < header.known_len
    if cut_off and length == 0:
        raise Corrupt("cut off: nothing is left")

    def blocks() -> Iterator[bytes]:
        for at in range(0, length, BLOCK):
            if cut_off and at + BLOCK >= length:
                raise DamagedBlock(at // BLOCK)
            plain = bytes(BLOCK) if header is None else read_block(read_at, header, at // BLOCK)
            yield plain[:length - at]

    return header, blocks()


def value_key(dek: bytes) -> bytes:
    """The key of all small values of a home."""
    return hkdf(b"", dek, b"vmcryptfs v1 home values", 32)


def xattr_bound(file_id: bytes | None, name: bytes) -> bytes:
    """What the value of an xattr is bound to."""
    return b"\1\2" + name if file_id is None else b"\1\1" + file_id + name


TARGET_BOUND = b"\1\3"


def seal_value(dek: bytes, bound: bytes, nonce: bytes, value: bytes) -> bytes:
    """The stored form of a value."""
    cipher, tag = xaes.seal(value_key(dek), nonce, value, bound)
    return b"\1" + nonce + cipher + tag


def open_value(dek: bytes, bound: bytes, stored: bytes) -> bytes:
    """A value from its stored form."""
    if len(stored) < 41:
        raise Corrupt(f"a sealed value of {len(stored)} bytes")
    plain = xaes.open_(value_key(dek), stored[1:25], stored[25:-16], stored[-16:], bound)
    if stored[0] != 1 or plain is None:
        raise Corrupt("a value that does not authenticate")
    return plain


def link_text(stored: bytes) -> str:
    """The text of a symbolic link whose sealed target this is."""
    return base64.urlsafe_b64encode(stored).decode().rstrip("=")


def open_target(dek: bytes, text: str) -> bytes:
    """A symbolic link's target from its text."""
    try:
        stored = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Corrupt("a link's text that is no base64url") from error
    if link_text(stored) != text:
        raise Corrupt("a link's text with unused bits that are set")
    return open_value(dek, TARGET_BOUND, stored)
