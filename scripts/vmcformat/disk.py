"""The data area of a disk: length, holes and sectors (FORMAT.md section 4). Offsets here are from data_offset on."""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from .errors import Corrupt, Unsupported

BLOCK = 16
UNIT = 512
MAX_PLAIN_LEN = 2**48


def block_count(plain_len: int) -> int:
    """Blocks of ciphertext of a disk, the padded one included."""
    return -(-plain_len // BLOCK)


def padded_len(plain_len: int) -> int:
    """Bytes of ciphertext of a disk."""
    return block_count(plain_len) * BLOCK


def file_len(plain_len: int) -> int:
    """E of section 4: the file's length beyond data_offset."""
    return plain_len if plain_len % BLOCK == 0 else plain_len + BLOCK


def plain_len(beyond: int) -> int:
    """L of section 4, from a file's length beyond data_offset, which is negative in a file that was cut off."""
    if beyond < 0:
        raise Corrupt(f"the file ends {-beyond} bytes before its data begin")
    if beyond < BLOCK:
        return 0
    length = beyond if beyond % BLOCK == 0 else beyond - BLOCK
    if length > MAX_PLAIN_LEN:
        raise Unsupported(f"a disk of {length} bytes: one key encrypts {MAX_PLAIN_LEN}")
    return length


def encrypt_range(dek: bytes, sector_size: int, offset: int, plaintext: bytes) -> bytes:
    """Ciphertext of whole blocks that lie at `offset`."""
    return _crypt_range(dek, sector_size, offset, plaintext, encrypt=True)


def decrypt_range(dek: bytes, sector_size: int, offset: int, ciphertext: bytes) -> bytes:
    """Plaintext of whole blocks that lie at `offset`; knows no holes."""
    return _crypt_range(dek, sector_size, offset, ciphertext, encrypt=False)


def _crypt_range(dek: bytes, sector_size: int, offset: int, data: bytes, encrypt: bool) -> bytes:
    if offset % BLOCK or len(data) % BLOCK:
        raise ValueError("only whole blocks have a ciphertext")
    done = []
    at = 0
    while at < len(data):
        number, skip = divmod(offset + at, sector_size)
        part = data[at:at + sector_size - skip]
        # Blocks before the part fix its place in the sector; none behind it is needed.
        scratch = _crypt_sector(dek, number, bytes(skip) + part, encrypt)
        done.append(scratch[skip:])
        at += len(part)
    return b"".join(done)


def _crypt_sector(dek: bytes, number: int, data: bytes, encrypt: bool) -> bytes:
    cipher = Cipher(AES(dek), XTS(number.to_bytes(16, "little")))
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    return context.update(data) + context.finalize()


def data_len_of_unit(unit: bytes) -> int:
    """Bytes of a unit's ciphertext before its hole, the blocks of zeros at its end."""
    return padded_len(len(unit.rstrip(b"\0")))


def read_range(dek: bytes, sector_size: int, offset: int, ciphertext: bytes) -> bytes:
    """Plaintext of whole blocks, holes honoured; begins at a unit and ends at a unit or where the blocks end."""
    if offset % UNIT:
        raise ValueError("holes are judged by whole units")
    if not any(ciphertext):
        return bytes(len(ciphertext))
    plaintext = bytearray(decrypt_range(dek, sector_size, offset, ciphertext))
    for at in range(0, len(ciphertext), UNIT):
        unit = ciphertext[at:at + UNIT]
        data_len = data_len_of_unit(unit)
        plaintext[at + data_len:at + len(unit)] = bytes(len(unit) - data_len)
    return bytes(plaintext)


def write_range(dek: bytes, sector_size: int, offset: int, plaintext: bytes) -> bytes:
    """Ciphertext of whole units, or of all up to the disk's end, padding included; units of zeros become holes."""
    if offset % UNIT:
        raise ValueError("units are written whole")
    if not any(plaintext):
        return bytes(padded_len(len(plaintext)))
    padded = plaintext.ljust(padded_len(len(plaintext)), b"\0")
    ciphertext = bytearray(encrypt_range(dek, sector_size, offset, padded))
    for at in range(0, len(padded), UNIT):
        unit = padded[at:at + UNIT]
        if not any(unit):
            ciphertext[at:at + len(unit)] = unit
    return bytes(ciphertext)


def tail(plain_length: int) -> bytes:
    """The zeros behind the last block, by whose number the length is told."""
    return bytes(file_len(plain_length) - padded_len(plain_length))
