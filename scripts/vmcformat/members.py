"""The list of a home's disks (docs/FORMAT.md, section 16)."""

import hmac
import struct
from dataclasses import dataclass

from .errors import Corrupt, Unsupported
from .keys import hkdf

MAGIC = b"VMCRYPTL"
VERSION = 1
FIXED = struct.Struct("<8sH6s16sQII")
MEMBER = struct.Struct("<16sIQH")
NAME = struct.Struct("<BH")
HMAC_LEN = 32
MAX_COPY_LEN = 1 << 20
SETTLED, CHANGING = 0, 1


@dataclass(frozen=True)
class Member:
    """A disk of the list; names are (state, path)."""

    uuid: bytes
    dek_generation: int
    sequence: int
    names: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class MemberList:
    """What a copy says."""

    home: bytes
    sequence: int
    disks: tuple[Member, ...]


def members_key(home: bytes, dek: bytes) -> bytes:
    """What authenticates the list of a home."""
    return hkdf(home, dek, b"vmcryptfs v1 members", 32)


def encode(made: MemberList, key: bytes) -> bytes:
    """The bytes of a copy."""
    body = b"".join(encode_member(member) for member in made.disks)
    fixed = FIXED.pack(MAGIC, VERSION, bytes(6), made.home, made.sequence, len(made.disks), len(body))
    return seal(fixed + body, key)


def seal(content: bytes, key: bytes) -> bytes:
    """Content with its HMAC."""
    return content + hmac.digest(key, content, "sha256")


def encode_member(member: Member) -> bytes:
    """One disk."""
    names = b"".join(NAME.pack(state, len(path)) + path for state, path in member.names)
    return MEMBER.pack(member.uuid, member.dek_generation, member.sequence, len(member.names)) + names


def demand(holds: bool, what: str) -> None:
    """Refuse damage."""
    if not holds:
        raise Corrupt(what)


def decode(copy: bytes, home: bytes, key: bytes) -> MemberList:
    """What a copy says, judged in the order of the document."""
    demand(copy[:8] == MAGIC, "another magic")
    demand(len(copy) >= 10, "cut off within the version")
    version = int.from_bytes(copy[8:10], "little")
    if version != VERSION:
        raise Unsupported(f"version {version}")
    demand(len(copy) >= FIXED.size, "cut off within the fixed fields")
    _, _, reserved, uuid, sequence, count, body_len = FIXED.unpack_from(copy)
    end = FIXED.size + body_len
    demand(not any(reserved), "reserved bytes")
    demand(uuid == home, "the list of another home")
    demand(end + HMAC_LEN <= min(len(copy), MAX_COPY_LEN), f"{body_len} bytes of disks")
    demand(hmac.compare_digest(hmac.digest(key, copy[:end], "sha256"), copy[end:end + HMAC_LEN]), "hmac")
    demand(sequence > 0, "sequence 0")
    return MemberList(uuid, sequence, decode_members(copy[FIXED.size:end], count))


def decode_members(body: bytes, count: int) -> tuple[Member, ...]:
    """The disks."""
    disks: list[Member] = []
    at = 0
    for _ in range(count):
        demand(at + MEMBER.size <= len(body), "cut off within a disk")
        uuid, generation, sequence, names = MEMBER.unpack_from(body, at)
        at += MEMBER.size
        found = []
        for _ in range(names):
            demand(at + NAME.size <= len(body), "cut off within a name")
            state, length = NAME.unpack_from(body, at)
            at += NAME.size
            demand(state in (SETTLED, CHANGING), f"state {state} of a name")
            demand(at + length <= len(body), "cut off within a path")
            found.append((state, body[at:at + length]))
            at += length
        demand(not disks or disks[-1].uuid < uuid, "disks that are not in order")
        disks.append(Member(uuid, generation, sequence, tuple(found)))
    demand(at == len(body), "bytes after the last disk")
    return tuple(disks)
