"""One header copy, and the choice between two (FORMAT.md section 2).

`encode` does not validate: the generators use it to write headers that are wrong in one field.
"""

import hashlib
import hmac
import re
import struct
import unicodedata
from dataclasses import dataclass, replace

from . import keys
from .errors import Corrupt, Foreign, FormatError, KeyRejected, Unsupported
from .transition import Transition

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

COPY_LEN = 8192
MAGIC = b"VMCRYPTF"
VERSION = 1
HOME, DISK = 1, 2
XTS, XAES = 1, 2
CIPHER_OF_KIND = {HOME: XAES, DISK: XTS}
KIND_NAMES = {HOME: "home", DISK: "disk"}
DEK_LEN = {HOME: keys.HOME_DEK_LEN, DISK: keys.DISK_DEK_LEN}
WRAPPED_LEN = {HOME: 40, DISK: 72}
SECOND_COPY = {HOME: 64 * KIB, DISK: 4 * MIB}
HOME_FILE = "vmcryptfs.home"
IN_TRANSITION = 1
HAS_STATE = 2
OWNED = 4
LISTED = 8
KNOWN_FEATURES = {HOME: IN_TRANSITION | HAS_STATE | OWNED | LISTED, DISK: IN_TRANSITION | OWNED}
STATES = {1: "encrypting", 2: "encrypted", 3: "decrypting", 4: "encrypted, converting disks"}

WRAP_KWP = 1
MAX_LABEL = 255
MAX_DISK_NAMES = 32
MAX_DISK_NAME = 64
MAX_SLOTS = 4
MAX_KEY_ID = 512

BODY_AT = 64
MAX_BODY = 8064
HMAC_AT = 8128
CHECKSUM_AT = 8160

# magic, version, kind, cipher, features, sequence, uuid, sector_size, dek_generation, data_offset, body_len, reserved
FIXED = struct.Struct("<8sHBBIQ16sIIQII")
PROVIDER = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9\-_.]{0,63}")


@dataclass(frozen=True)
class Slot:
    """A DEK, wrapped for one KEK."""

    provider: str
    key_id: str
    check: bytes
    wrapped: bytes
    wrap: int = WRAP_KWP


@dataclass(frozen=True)
class Header:
    """What a header copy says. Nothing of it is proof before `unlock`."""

    kind: int
    uuid: bytes
    sequence: int
    sector_size: int
    data_offset: int
    label: str
    disk_names: tuple[str, ...]
    slots: tuple[Slot, ...]
    transition: Transition | None = None
    dek_generation: int = 0
    state: int | None = None
    owner: bytes | None = None
    binds_disks: bool = False
    lists_disks: bool = False


def new_slot(provider: str, key_id: str, kek: bytes, dek: bytes) -> Slot:
    """A slot that holds the DEK for this KEK."""
    return Slot(provider, key_id, keys.key_check(kek), keys.wrap(kek, dek))


# --- encoding -------------------------------------------------------------------------------------------------------


def encode(header: Header, dek: bytes) -> bytes:
    """The 8192 bytes of a header copy."""
    body = encode_body(header)
    cipher = CIPHER_OF_KIND[header.kind]
    features = (IN_TRANSITION if header.transition else 0) | (HAS_STATE if header.state is not None else 0)
    features |= OWNED if header.owner is not None or header.binds_disks else 0
    features |= LISTED if header.lists_disks else 0
    fixed = FIXED.pack(MAGIC, VERSION, header.kind, cipher, features, header.sequence, header.uuid, header.sector_size,
                       header.dek_generation, header.data_offset, len(body), 0)
    return seal((fixed + body).ljust(HMAC_AT, b"\0"), dek)


def seal(content: bytes, dek: bytes) -> bytes:
    """Put HMAC and checksum behind bytes 0 to 8127 (what is behind those in `content` is replaced)."""
    content = content[:HMAC_AT]
    uuid = content[24:40]
    return checksummed(content + keys.header_hmac(uuid, dek, content))


def checksummed(content: bytes) -> bytes:
    """Put the checksum behind bytes 0 to 8159."""
    content = content[:CHECKSUM_AT]
    return content + hashlib.sha256(content).digest()


def encode_body(header: Header) -> bytes:
    """Label, disk names, slots, transition, state and owner."""
    label = header.label.encode()
    parts = [struct.pack("<H", len(label)), label, bytes([len(header.disk_names)])]
    parts += [bytes([len(name.encode())]) + name.encode() for name in header.disk_names]
    parts.append(bytes([len(header.slots)]))
    parts += [encode_slot(slot) for slot in header.slots]
    if header.transition:
        parts += [header.transition.id, bytes([len(header.transition.old)]), header.transition.old]
    if header.state is not None:
        parts.append(bytes([header.state]))
    parts.append(header.owner or b"")
    return b"".join(parts)


def encode_slot(slot: Slot) -> bytes:
    """One slot of the body."""
    provider, key_id = slot.provider.encode(), slot.key_id.encode()
    return b"".join([
        bytes([slot.wrap, len(provider)]), provider,
        struct.pack("<H", len(key_id)), key_id,
        slot.check,
        bytes([len(slot.wrapped)]), slot.wrapped,
    ])


# --- decoding -------------------------------------------------------------------------------------------------------


class Reader:
    """Takes fields from the front of some bytes; running out is damage."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        """The next bytes."""
        end = self.at + length
        if end > len(self.data):
            raise Corrupt("the body ends within a field")
        taken, self.at = self.data[self.at:end], end
        return taken

    def u8(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """The next two bytes."""
        return int.from_bytes(self.take(2), "little")

    def text(self, length: int) -> str:
        """UTF-8 of that many bytes."""
        try:
            return self.take(length).decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise Corrupt("a text is not UTF-8") from error

    def finish(self) -> None:
        """Nothing may follow."""
        if self.at != len(self.data):
            raise Corrupt("bytes follow the last field of the body")


def demand(condition: bool, message: str) -> None:
    """Refuse as damaged unless the condition holds."""
    if not condition:
        raise Corrupt(message)


def decode(copy: bytes) -> Header:
    """Read one copy, judging in the order of section 2: magic, length, version, checksum, features, limits."""
    if copy[:8] != MAGIC:
        raise Foreign("wrong magic")
    demand(len(copy) == COPY_LEN, f"a header copy has {COPY_LEN} bytes, this one {len(copy)}")
    (_, version, kind, cipher, features, sequence, uuid, sector_size, dek_generation, data_offset, body_len,
     reserved) = FIXED.unpack(copy[:BODY_AT])
    if version != VERSION:
        raise Unsupported(f"version {version}")
    demand(hashlib.sha256(copy[:CHECKSUM_AT]).digest() == copy[CHECKSUM_AT:], "wrong checksum")
    if features & ~KNOWN_FEATURES.get(kind, IN_TRANSITION | OWNED):
        raise Unsupported(f"unknown features {features:#x}")
    demand(kind in KIND_NAMES, f"kind {kind}")
    demand(cipher == CIPHER_OF_KIND[kind], f"cipher {cipher} for a {KIND_NAMES[kind]}")
    demand(sequence != 0, "sequence 0")
    demand(any(uuid), "the nil UUID")
    demand_geometry(kind, sector_size, data_offset)
    demand(body_len <= MAX_BODY, f"body of {body_len} bytes")
    reserved_tail = copy[BODY_AT + body_len:HMAC_AT]
    demand(reserved == 0 and not any(reserved_tail), "reserved bytes are not zero")
    body = copy[BODY_AT:BODY_AT + body_len]
    return decode_body(kind, features, body, Header(kind, uuid, sequence, sector_size, data_offset, "", (), (), None,
                                                    dek_generation))


def demand_geometry(kind: int, sector_size: int, data_offset: int) -> None:
    """sector_size and data_offset within their limits for this kind."""
    if kind == HOME:
        demand(sector_size == 4096, f"sector size {sector_size} of a home")
        demand(data_offset == 0, f"data offset {data_offset} of a home")
        return
    demand(sector_size in (512, 4096), f"sector size {sector_size}")
    demand(8 * MIB <= data_offset <= GIB and data_offset % MIB == 0, f"data offset {data_offset}")


def decode_body(kind: int, features: int, body: bytes, fixed: Header) -> Header:
    """The header of these fixed fields, with what the body says."""
    reader = Reader(body)
    label_len = reader.u16()
    demand(label_len <= MAX_LABEL, f"label of {label_len} bytes")
    label = reader.text(label_len)
    demand_no_control(label, "label")
    name_count = reader.u8()
    demand(name_count <= MAX_DISK_NAMES, f"{name_count} disk names")
    demand(kind == HOME or name_count == 0, "disk names on a disk")
    disk_names = tuple(decode_disk_name(reader) for _ in range(name_count))
    slot_count = reader.u8()
    demand(1 <= slot_count <= MAX_SLOTS, f"{slot_count} slots")
    slots = tuple(decode_slot(kind, reader) for _ in range(slot_count))
    transition = decode_transition(kind, reader) if features & IN_TRANSITION else None
    state = reader.u8() if features & HAS_STATE else None
    demand(state is None or state in STATES, f"state {state}")
    owned = bool(features & OWNED)
    listed = bool(features & LISTED)
    demand(owned or not listed, "a list of disks that do not name their home")
    owner = reader.take(16) if owned and kind == DISK else None
    demand(owner is None or any(owner), "a disk of the nil UUID")
    reader.finish()
    return replace(fixed, label=label, disk_names=disk_names, slots=slots, transition=transition, state=state,
                   owner=owner, binds_disks=owned and kind == HOME, lists_disks=listed)


def decode_transition(kind: int, reader: Reader) -> Transition:
    """What the body says of a deep rekey."""
    id_ = reader.take(16)
    demand(any(id_), "a transition without an id")
    old_len = reader.u8()
    demand(old_len in (0, WRAPPED_LEN[kind]), f"wrapped old DEK of {old_len} bytes")
    return Transition(id_, reader.take(old_len))


def decode_disk_name(reader: Reader) -> str:
    """One pattern of the home's disk names."""
    length = reader.u8()
    demand(1 <= length <= MAX_DISK_NAME, f"disk name of {length} bytes")
    pattern = reader.text(length)
    demand_no_control(pattern, "disk name")
    demand("/" not in pattern, "slash in a disk name")
    return pattern


def demand_no_control(text: str, what: str) -> None:
    """No letter of Unicode's general category Cc."""
    demand(not any(unicodedata.category(letter) == "Cc" for letter in text), f"control character in the {what}")


def decode_slot(kind: int, reader: Reader) -> Slot:
    """One slot of the body."""
    wrap = reader.u8()
    demand(wrap == WRAP_KWP, f"wrap algorithm {wrap}")
    provider = reader.take(reader.u8())
    demand(PROVIDER.fullmatch(provider) is not None, f"provider name {provider!r}")
    key_id_len = reader.u16()
    demand(1 <= key_id_len <= MAX_KEY_ID, f"key id of {key_id_len} bytes")
    key_id = reader.text(key_id_len)
    demand_no_control(key_id, "key id")
    check = reader.take(8)
    wrapped_len = reader.u8()
    demand(wrapped_len == WRAPPED_LEN[kind], f"wrapped DEK of {wrapped_len} bytes")
    return Slot(provider.decode("ascii"), key_id, check, reader.take(wrapped_len), wrap)


# --- choosing and unlocking -----------------------------------------------------------------------------------------


def is_disk(first: bytes, second: bytes) -> bool:
    """Whether a file is a disk, by what stands at the places of a disk's two copies."""
    return any(copy[:8] == MAGIC and copy[10:11] == bytes([DISK]) for copy in (first, second))


def decode_as(kind: int, copy: bytes) -> Header:
    """Read one copy of a component whose kind is known."""
    header = decode(copy)
    if header.kind != kind:
        raise Foreign(f"a {KIND_NAMES[header.kind]}, not a {KIND_NAMES[kind]}")
    return header


def choose(kind: int, first: bytes, second: bytes) -> tuple[bytes, Header]:
    """The copy in use, of the two of a component."""
    valid: list[tuple[bytes, Header]] = []
    refusals: list[FormatError] = []
    for copy in (first, second):
        try:
            valid.append((copy, decode_as(kind, copy)))
        except Unsupported:
            raise  # never passed over for an older copy
        except FormatError as refusal:
            refusals.append(refusal)
    if not valid:
        # Where one of two copies still has our magic, the component is ours and damaged. A home's file is known by its name.
        if kind == HOME and isinstance(refusals[0], Foreign):
            raise Corrupt("no copy of the home's header is left")
        raise next((refusal for refusal in refusals if isinstance(refusal, Corrupt)), refusals[0])
    demand(len({header.uuid for _, header in valid}) == 1, "the copies have different UUIDs")
    if len(valid) == 2 and valid[0][1].sequence == valid[1][1].sequence and first != second:
        raise Corrupt("both copies are valid, with the same sequence and different bytes")
    return max(valid, key=lambda copy: copy[1].sequence)


def unlock(copy: bytes, header: Header, kek: bytes, share: bytes = b"") -> bytes:
    """The DEK, from whichever slot is this KEK's, or that of this key and share; after this the header is authentic."""
    check = keys.shared_key_check(kek, share) if share else keys.key_check(kek)
    kek = keys.shared_kek(kek, share) if share else kek
    mine = [slot for slot in header.slots if slot.check == check]
    if not mine:
        raise KeyRejected("no slot was made with this KEK")
    refusal: Corrupt | None = None
    for slot in mine:
        try:
            return authenticate(copy, keys.unwrap_dek(kek, slot.wrapped, DEK_LEN[header.kind]))
        except Corrupt as error:
            refusal = error
    raise refusal or Corrupt("no slot unlocks")


def authenticate(copy: bytes, dek: bytes) -> bytes:
    """The DEK, if the header's HMAC was made with it."""
    expected = keys.header_hmac(copy[24:40], dek, copy[:HMAC_AT])
    if not hmac.compare_digest(expected, copy[HMAC_AT:CHECKSUM_AT]):
        raise Corrupt("the header's HMAC does not verify")
    return dek
