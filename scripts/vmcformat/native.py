"""The native provider: primary key file, key ids, backup file (FORMAT.md section 5)."""

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import keys
from .errors import Corrupt, KeyRejected, KeyUnavailable, Unsupported
from .header import PROVIDER, VERSION, demand

PRIMARY_MAGIC = b"VMCRYPTP"
PRIMARY = struct.Struct("<8sH6s16s32s")
PRIMARY_LEN = 96
SHARE_MAGIC = b"VMCRYPTK"
SEALED_SHARE_MAGIC = b"VMCRYPTQ"
SEALED_SHARE = struct.Struct("<8sHHH2s16s64sI")
MAX_PART = 2048
BACKUP_MAGIC = b"VMCRYPTB"
BACKUP = struct.Struct("<8sHBBIII16s12s16s")
SEALED_LEN = 48
CHECKSUM_LEN = 32
KEY_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([A-Za-z0-9_-]{54})")


class NoArgon2(Exception):
    """This Python has no Argon2id."""


@dataclass(frozen=True)
class PrimaryKey:
    """What a primary key file holds."""

    uuid: bytes
    key: bytes


@dataclass(frozen=True)
class Cost:
    """Argon2id parameters."""

    memory_kib: int
    passes: int
    lanes: int


@dataclass(frozen=True)
class Backup:
    """What a backup file holds, but for the primary key's bytes."""

    provider: str
    uuid: bytes
    cost: Cost
    salt: bytes
    nonce: bytes


def encode_primary(primary: PrimaryKey) -> bytes:
    """A primary key file."""
    return summed(PRIMARY.pack(PRIMARY_MAGIC, VERSION, bytes(6), primary.uuid, primary.key))


def decode_primary(data: bytes) -> PrimaryKey:
    """Read a primary key file."""
    return decode_secret(data, PRIMARY_MAGIC)


def decode_secret(data: bytes, magic: bytes) -> PrimaryKey:
    """Read a file of one secret, judging in the order of section 5."""
    demand_ours(data, magic)
    demand(len(data) == PRIMARY_LEN, f"a file of one secret has {PRIMARY_LEN} bytes, this one {len(data)}")
    demand(summed(data[:-CHECKSUM_LEN]) == data, "wrong checksum")
    _, _, reserved, uuid, key = PRIMARY.unpack(data[:64])
    demand(not any(reserved), "reserved bytes are not zero")
    return PrimaryKey(uuid, key)


def encode_share(share: PrimaryKey) -> bytes:
    """A file of a share: a primary key file with another magic."""
    return summed(PRIMARY.pack(SHARE_MAGIC, VERSION, bytes(6), share.uuid, share.key))


def decode_share(data: bytes) -> PrimaryKey:
    """Read a file of a share."""
    return decode_secret(data, SHARE_MAGIC)


@dataclass(frozen=True)
class SealedShare:
    """A share that a TPM has: what the TPM makes of it, and for which key and PCRs."""

    uuid: bytes
    root: bytes
    pcrs: int
    private: bytes
    public: bytes


def encode_sealed_share(sealed: SealedShare) -> bytes:
    """The file of a share that is sealed to a TPM."""
    head = SEALED_SHARE.pack(SEALED_SHARE_MAGIC, VERSION, len(sealed.private), len(sealed.public), bytes(2), sealed.uuid,
                             sealed.root, sealed.pcrs)
    return summed(head + sealed.private + sealed.public)


def decode_sealed_share(data: bytes) -> SealedShare:
    """Read such a file, judging in the order of section 5."""
    demand_ours(data, SEALED_SHARE_MAGIC)
    demand(summed(data[:-CHECKSUM_LEN]) == data, "wrong checksum")
    demand(len(data) >= SEALED_SHARE.size + CHECKSUM_LEN, "the file ends early")
    _, _, private_len, public_len, reserved, uuid, root, pcrs = SEALED_SHARE.unpack_from(data)
    demand(not any(reserved) and private_len <= MAX_PART and public_len <= MAX_PART, "reserved bytes or lengths")
    demand(pcrs < 1 << 24, "PCRs that none has")
    rest = data[SEALED_SHARE.size:-CHECKSUM_LEN]
    demand(len(rest) == private_len + public_len, "another length")
    return SealedShare(uuid, root, pcrs, rest[:private_len], rest[private_len:])


def demand_ours(data: bytes, magic: bytes) -> None:
    """Refuse other versions; another magic is damage in a file that was named."""
    demand(data[:8] == magic, "wrong magic")
    demand(len(data) >= 10, "the file ends within the version")
    version = int.from_bytes(data[8:10], "little")
    if version != VERSION:
        raise Unsupported(f"version {version}")


def make_key_id(primary: PrimaryKey, kek: bytes) -> str:
    """The name of a KEK, which holds it wrapped."""
    wrapped = base64.urlsafe_b64encode(keys.wrap(primary.key, kek)).decode("ascii").rstrip("=")
    return f"{UUID(bytes=primary.uuid)}/{wrapped}"


def open_key_id(primary: PrimaryKey, key_id: str) -> bytes:
    """The KEK that a key id names."""
    match = KEY_ID.fullmatch(key_id)
    if match is None:
        raise Corrupt("not a key id of the native provider")
    if match[1] != str(UUID(bytes=primary.uuid)):
        raise KeyUnavailable(f"the key id is of primary key {match[1]}")
    return keys.unwrap(primary.key, decode_base64url(match[2]), keys.KEK_LEN)


def decode_base64url(text: str) -> bytes:
    """Base64url without padding, in its only form: unused bits are zero."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise Corrupt("not base64url") from error
    demand(base64.urlsafe_b64encode(data).decode("ascii").rstrip("=") == text, "unused bits of base64url are set")
    return data


def encode_backup(backup: Backup, primary_key: bytes, passphrase: str) -> bytes:
    """A backup file."""
    provider = backup.provider.encode("ascii")
    cost = backup.cost
    clear = BACKUP.pack(BACKUP_MAGIC, VERSION, len(provider), 0, cost.memory_kib, cost.passes, cost.lanes,
                        backup.salt, backup.nonce, backup.uuid) + provider
    return summed(clear + AESGCM(backup_key(backup, passphrase)).encrypt(backup.nonce, primary_key, clear))


def summed(content: bytes) -> bytes:
    """The content with its SHA-256 behind it."""
    return content + hashlib.sha256(content).digest()


def decode_backup(data: bytes) -> tuple[Backup, bytes, bytes]:
    """What a backup says in the clear, the bytes that say so, and the sealed primary key."""
    demand_ours(data, BACKUP_MAGIC)
    demand(summed(data[:-CHECKSUM_LEN]) == data, "wrong checksum")
    data = data[:-CHECKSUM_LEN]
    demand(len(data) >= BACKUP.size, "the file ends within a field")
    _, _, name_len, reserved, memory, passes, lanes, salt, nonce, uuid = BACKUP.unpack(data[:BACKUP.size])
    demand(reserved == 0, "reserved byte is not zero")
    demand(1 <= passes <= 64, f"{passes} Argon2id passes")
    demand(1 <= lanes <= 16, f"{lanes} Argon2id lanes")
    demand(8 * lanes <= memory <= 4194304, f"Argon2id memory of {memory} KiB for {lanes} lanes")
    clear_len = BACKUP.size + name_len
    demand(len(data) == clear_len + SEALED_LEN, "the file is not as long as its name asks")
    provider = data[BACKUP.size:clear_len]
    demand(PROVIDER.fullmatch(provider) is not None, f"provider name {provider!r}")
    backup = Backup(provider.decode("ascii"), uuid, Cost(memory, passes, lanes), salt, nonce)
    return backup, data[:clear_len], data[clear_len:]


def open_backup(data: bytes, passphrase: str) -> tuple[Backup, PrimaryKey]:
    """A backup and the primary key in it."""
    backup, clear, sealed = decode_backup(data)
    try:
        key = AESGCM(backup_key(backup, passphrase)).decrypt(backup.nonce, sealed, clear)
    except InvalidTag as error:
        raise KeyRejected("wrong passphrase") from error
    return backup, PrimaryKey(backup.uuid, key)


def backup_key(backup: Backup, passphrase: str) -> bytes:
    """The key that seals a backup."""
    return argon2id(passphrase.encode(), backup.salt, backup.cost)


def argon2id(secret: bytes, salt: bytes, cost: Cost) -> bytes:
    """32 bytes of Argon2id version 0x13, by whichever package has it."""
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    except ImportError:
        return _argon2id_of_argon2_cffi(secret, salt, cost)
    return Argon2id(salt=salt, length=32, iterations=cost.passes, lanes=cost.lanes,
                    memory_cost=cost.memory_kib).derive(secret)


def _argon2id_of_argon2_cffi(secret: bytes, salt: bytes, cost: Cost) -> bytes:
    try:
        from argon2.low_level import Type, hash_secret_raw
    except ImportError as error:
        raise NoArgon2("Argon2id needs cryptography 44 or argon2-cffi (python3-argon2)") from error
    key: bytes = hash_secret_raw(secret, salt, time_cost=cost.passes, memory_cost=cost.memory_kib,
                                 parallelism=cost.lanes, hash_len=32, type=Type.ID, version=0x13)
    return key


def has_argon2() -> bool:
    """Whether backups can be made and opened here."""
    try:
        argon2id(b"probe", bytes(16), Cost(8, 1, 1))
    except NoArgon2:
        return False
    return True
