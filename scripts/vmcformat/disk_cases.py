"""Vectors of sectors, holes and lengths."""

from .disk import BLOCK, MAX_PLAIN_LEN, UNIT, decrypt_range, encrypt_range, file_len, padded_len, read_range, tail
from .header import COPY_LEN, MIB
from .samples import DISK_DEK
from .vectorfile import VectorFile, derive

# What a writer leaves, and each neighbour of a block, unit and sector boundary.
LENGTHS = (0, 1, 15, 16, 17, 31, 32, 33, 100, 495, 496, 497, 511, 512, 513, 528, 1000, 4095, 4096, 4097,
           2**32 - 1, 2**32, 2**32 + 1, 2**40 + 5, MAX_PLAIN_LEN - 1, MAX_PLAIN_LEN)
# What no writer leaves, and what it reads as.
ODD = ((1, 0), (8, 0), (15, 0), (MAX_PLAIN_LEN + 15, MAX_PLAIN_LEN - 1))


def length_vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    table = tuple(("length", f"{length} {file_len(length)}") for length in LENGTHS)
    reads = tuple(("read", f"{beyond} {length}") for beyond, length in ODD)
    return {
        "table": VectorFile((("expect", "ok"), ("why", "what a writer leaves"), *table)),
        "odd": VectorFile((("expect", "ok"), ("why", "what only other programs leave"), *reads)),
        "too-long": refused("unsupported", "a block more than one key may encrypt", MAX_PLAIN_LEN + BLOCK),
        "too-long-by-one": refused("unsupported", "a byte more than one key may encrypt", MAX_PLAIN_LEN + BLOCK + 1),
        "cut-by-one": refused("corrupt", "cut off one byte before the data", -1),
        "cut-in-space": refused("corrupt", "cut off between the second copy and the data", -MIB),
        "cut-behind-second-copy": refused("corrupt", "cut off right behind the second copy", 4 * MIB + COPY_LEN - 8 * MIB),
    }


def refused(expect: str, why: str, beyond: int) -> VectorFile:
    """The vector of a file of a length that no disk has."""
    return VectorFile((("expect", expect), ("why", why), ("read", f"{beyond} 0")))


def sector_vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {**whole_and_part_cases(), **end_cases(), **hole_cases(), **ignored_cases(), "worked-example": worked()}


def sector_vector(why: str, sector_size: int, offset: int, plain_len: int, direction: str, plaintext: bytes,
                  ciphertext: bytes, dek: bytes = DISK_DEK) -> VectorFile:
    """The vector of one range."""
    fields = (
        ("expect", "ok"), ("why", why), ("dek", dek.hex()), ("sector_size", str(sector_size)),
        ("plain_len", str(plain_len)), ("first_sector", str(offset // sector_size)), ("offset", str(offset)),
        ("direction", direction),
    )
    return VectorFile(fields, (plaintext, ciphertext))


def noise(why: str, length: int) -> bytes:
    """Plaintext that differs in every vector."""
    return derive(f"plaintext: {why}", length)


def encrypted(why: str, sector_size: int, offset: int, length: int) -> VectorFile:
    """A range of whole blocks, somewhere in a disk of whole units that ends a unit behind it."""
    plaintext = noise(why, length)
    plain_len = min(-(-(offset + length) // UNIT) * UNIT + UNIT, MAX_PLAIN_LEN)
    return sector_vector(why, sector_size, offset, plain_len, "both", plaintext,
                         encrypt_range(DISK_DEK, sector_size, offset, plaintext))


def whole_and_part_cases() -> dict[str, VectorFile]:
    """Ranges that do not touch the disk's end."""
    cases = {
        "whole-512": ("sectors 0 and 1 of 512 bytes", 512, 0, 1024),
        "whole-4096": ("sector 0 of 4096 bytes", 4096, 0, 4096),
        "two-4096": ("sectors 1 and 2 of 4096 bytes", 4096, 4096, 8192),
        "unit-of-4096": ("one unit within a sector", 4096, 5 * 4096 + 3 * UNIT, UNIT),
        "across-4096": ("the last unit of a sector and the first of the next", 4096, 2 * 4096 - UNIT, 2 * UNIT),
        "block-of-512": ("one block within a sector", 512, 7 * 512 + 5 * BLOCK, BLOCK),
        "blocks-of-4096": ("three blocks within a sector", 4096, 3 * 4096 + 1040, 3 * BLOCK),
        "sector-255": ("sectors 255 and 256: the tweak's second byte", 512, 255 * 512, 1024),
        "sector-2-32": ("sectors 2^32 - 1 and 2^32: the tweak's fifth byte", 512, (2**32 - 1) * 512, 1024),
        "sector-2-32-of-4096": ("sector 2^32 of 4096 bytes", 4096, 2**32 * 4096, UNIT),
        "sector-2-39": ("sector 2^39 - 1, the last that a disk can have", 512, (2**39 - 1) * 512, 512),
    }
    return {name: encrypted(*case) for name, case in cases.items()}


def end_cases() -> dict[str, VectorFile]:
    """Ranges that end where the disk ends: padding, and the zeros behind it."""
    cases = {
        "end-1": ("a disk of one byte", 512, 0, 1),
        "end-15": ("a disk of a block but one byte", 512, 0, 15),
        "end-16": ("a disk of one block, which needs no padding", 512, 0, 16),
        "end-100-of-4096": ("a disk of 100 bytes with 4096-byte sectors", 4096, 0, 100),
        "end-511": ("the zeros behind the padding lie in the next unit", 512, 0, 511),
        "end-1000": ("a second sector that is not whole", 512, 512, 1000),
        "end-4097": ("one byte in the second sector", 4096, 4096, 4097),
    }
    return {name: ended(*case) for name, case in cases.items()}


def ended(why: str, sector_size: int, offset: int, plain_len: int) -> VectorFile:
    """From `offset` to the end of a disk."""
    plaintext = noise(why, plain_len - offset)
    padded = plaintext.ljust(padded_len(plain_len) - offset, b"\0")
    ciphertext = encrypt_range(DISK_DEK, sector_size, offset, padded) + tail(plain_len)
    return sector_vector(why, sector_size, offset, plain_len, "both", plaintext, ciphertext)


def hole_cases() -> dict[str, VectorFile]:
    """What reads as zeros and what does not."""
    first_100 = encrypt_range(DISK_DEK, 512, 0, noise("hole", 100).ljust(112, b"\0"))
    first_48 = encrypt_range(DISK_DEK, 4096, 0, noise("hole 48", 48))
    unit = encrypt_range(DISK_DEK, 4096, 0, noise("unit", 4096))
    gaps = unit[:512] + bytes(512) + unit[1024:1536] + bytes(1024) + unit[2560:2608] + bytes(464) + unit[3072:]
    last_zero = derive("ciphertext that ends in zeros", UNIT - 15) + bytes(15)
    cases = {
        "hole-unit": ("a unit of zeros", 512, 512, bytes(512)),
        "hole-sector-4096": ("a sector of zeros", 4096, 4096, bytes(4096)),
        "hole-units-of-4096": ("units and the end of a unit of zeros within a sector", 4096, 4096, gaps),
        "hole-all": ("a disk of 100 bytes, never written", 512, 100, bytes(116)),
        "hole-grown-in-unit": ("grown from 100 to 300 bytes", 512, 300, first_100.ljust(316, b"\0")),
        "hole-grown": ("grown from 100 to 1000 bytes", 512, 1000, first_100.ljust(1016, b"\0")),
        "hole-grown-4096": ("grown from 48 to 8192 bytes", 4096, 8192, first_48.ljust(8192, b"\0")),
        "no-hole-at-start": ("blocks of zeros before ciphertext are no hole", 512, 512, bytes(496) + unit[:16]),
        "no-hole-within-block": ("a last block that only ends in zeros is no hole", 512, 512, last_zero),
    }
    return {name: holed(*case) for name, case in cases.items()}


def holed(why: str, sector_size: int, plain_len: int, ciphertext: bytes) -> VectorFile:
    """A whole disk from its ciphertext; read as the rule says and checked against the raw cipher outside holes."""
    blocks = ciphertext[:padded_len(plain_len)]
    plaintext = read_range(DISK_DEK, sector_size, 0, blocks)
    raw = decrypt_range(DISK_DEK, sector_size, 0, blocks)
    assert all(got in (0, want) for got, want in zip(plaintext, raw))
    return sector_vector(why, sector_size, 0, plain_len, "read", plaintext[:plain_len], ciphertext)


def ignored_cases() -> dict[str, VectorFile]:
    """Bytes behind the disk's end that a crash or another program left."""
    raw = encrypt_range(DISK_DEK, 512, 0, noise("padding", 112)) + tail(100)
    clean = encrypt_range(DISK_DEK, 512, 0, noise("padding", 100).ljust(112, b"\0"))
    return {
        "padding-not-zero": ended_by("the padding of the last block decrypts to other than zeros", 100, raw),
        "mark-not-zero": ended_by("the mark behind the last block is not zeros", 100, clean + b"\xff" * 4),
    }


def ended_by(why: str, plain_len: int, ciphertext: bytes) -> VectorFile:
    """A disk that is read up to its end and no further."""
    plaintext = decrypt_range(DISK_DEK, 512, 0, ciphertext[:padded_len(plain_len)])[:plain_len]
    return sector_vector(why, 512, 0, plain_len, "read", plaintext, ciphertext)


def worked() -> VectorFile:
    """The example of FORMAT.md section 4, its whole unit."""
    dek, offset = bytes(range(64)), 8704
    plaintext = (bytes(16) + b"vmcryptfs sector").ljust(UNIT, b"\0")
    return sector_vector("the example of docs/FORMAT.md", 4096, offset, 12288, "both", plaintext,
                         encrypt_range(dek, 4096, offset, plaintext), dek)
