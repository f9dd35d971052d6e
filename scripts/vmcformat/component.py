"""Whole components as files: reading, decrypting and making disks and homes (FORMAT.md sections 1, 2 and 4)."""

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from . import disk, transition
from .errors import Foreign
from .header import (
    COPY_LEN,
    DEK_LEN,
    DISK,
    HOME,
    HOME_FILE,
    MIB,
    SECOND_COPY,
    Header,
    choose,
    decode,
    encode,
    is_disk,
    new_slot,
    unlock,
)

CHUNK = MIB


@dataclass(frozen=True)
class Component:
    """A component's header in use, and where from."""

    copy: bytes
    header: Header
    copies: tuple[bytes, bytes]


def read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    """Bytes at an offset, fewer only at the file's end. Around the file's buffer, which SEEK_DATA would confuse."""
    return os.pread(file.fileno(), length, offset)


def read_component(file: BinaryIO) -> Component:
    """Read both copies. A home is known by its name, a disk by its content."""
    first = read_at(file, 0, COPY_LEN)
    if Path(file.name).name == HOME_FILE:
        kind = HOME
    elif is_disk(first, read_at(file, SECOND_COPY[DISK], COPY_LEN)):
        kind = DISK
    else:
        raise Foreign(f"neither a disk nor named {HOME_FILE}")
    second = read_at(file, SECOND_COPY[kind], COPY_LEN)
    copy, header = choose(kind, first, second)
    return Component(copy, header, (first, second))


def make_header(kind: int, sector_size: int, data_offset: int, label: str, disk_names: tuple[str, ...],
                provider: str, key_id: str, kek: bytes, owner: bytes | None = None) -> tuple[bytes, bytes]:
    """A new component's header copy and DEK; refuses what a reader would refuse."""
    dek = os.urandom(DEK_LEN[kind])
    header = Header(kind=kind, uuid=uuid4().bytes, sequence=1, sector_size=sector_size, data_offset=data_offset,
                    label=label, disk_names=disk_names, slots=(new_slot(provider, key_id, kek, dek),),
                    state=2 if kind == HOME else None, owner=owner, binds_disks=kind == HOME)
    copy = encode(header, dek)
    decode(copy)
    return copy, dek


def write_copies(file: BinaryIO, kind: int, copy: bytes) -> None:
    """Both copies of a new component."""
    for offset in (0, SECOND_COPY[kind]):
        file.seek(offset)
        file.write(copy)


def create_home(path: Path, copy: bytes) -> None:
    """A home header's file."""
    with path.open("xb") as file:
        write_copies(file, HOME, copy)


def data_chunks(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Data between two offsets, in chunks that begin at multiples of CHUNK from `start`; holes are left out."""
    offset = start
    while offset < end:
        try:
            data_at = os.lseek(file.fileno(), offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                raise
            return
        offset = start + (data_at - start) // CHUNK * CHUNK
        if offset >= end:
            return
        chunk = read_at(file, offset, min(CHUNK, end - offset))
        if any(chunk):
            yield offset - start, chunk
        offset += CHUNK


def create_disk(plain: Path, path: Path, copy: bytes, dek: bytes) -> None:
    """A disk with the content of a plain file; units of zeros become holes."""
    header = decode(copy)
    with plain.open("rb") as source, path.open("xb") as file:
        plain_len = os.fstat(source.fileno()).st_size
        write_copies(file, DISK, copy)
        for offset, chunk in data_chunks(source, 0, plain_len):
            file.seek(header.data_offset + offset)
            file.write(disk.write_range(dek, header.sector_size, offset, chunk))
        file.truncate(header.data_offset + disk.file_len(plain_len))


def decrypt_disk(file: BinaryIO, component: Component, kek: bytes, out: BinaryIO | None,
                 share: bytes = b"") -> tuple[int, str]:
    """Verify the header, decrypt everything; plaintext length and SHA-256. `out` becomes a sparse file."""
    dek = unlock(component.copy, component.header, kek, share)
    header = component.header
    read_range = transition.reader(file.fileno(), header.uuid, header.transition, dek, header.sector_size)
    plain_len = disk.plain_len(os.fstat(file.fileno()).st_size - header.data_offset)
    end_of_blocks = disk.padded_len(plain_len)
    digest, hashed = hashlib.sha256(), 0
    for offset, ciphertext in data_chunks(file, header.data_offset, header.data_offset + end_of_blocks):
        padded = read_range(offset, ciphertext)
        plaintext = padded[:plain_len - offset]
        warn_unless_zero(padded[len(plaintext):], "the padding of the last block")
        hash_zeros(digest, offset - hashed)
        digest.update(plaintext)
        hashed = offset + len(plaintext)
        if out is not None:
            out.seek(offset)
            out.write(plaintext)
    hash_zeros(digest, plain_len - hashed)
    warn_unless_zero(read_at(file, header.data_offset + end_of_blocks, disk.BLOCK), "what follows the last block")
    if out is not None:
        out.truncate(plain_len)
    return plain_len, digest.hexdigest()


def hash_zeros(digest: Any, length: int) -> None:
    """Add a hole to a digest."""
    zeros = bytes(CHUNK)
    for _ in range(length // CHUNK):
        digest.update(zeros)
    digest.update(bytes(length % CHUNK))


def warn_unless_zero(data: bytes, what: str) -> None:
    """The format says zeros; a reader serves the disk nonetheless, but growing it would show what is there."""
    if any(data):
        print(f"vectors.py: warning: {what} is not zero", file=sys.stderr)
