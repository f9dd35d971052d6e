"""Encrypted dumps (FORMAT.md section 20)."""

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import hpke, keys, native
from .cluster import Fields, start, text
from .errors import Corrupt, KeyRejected
from .header import PROVIDER, demand

KEY_FILE, DUMP = b"VMCRYPTY", b"VMCRYPTU"
INFO = b"vmcryptfs dump 1"
MAX_HEADER = 4096
PIECE = 65536
DATA, ZEROS, LAST, CUT = 1, 2, 3, 4
HOST_KEY, PASSPHRASE = 1, 2
HEAD = struct.Struct("<B3sI")


@dataclass(frozen=True)
class DumpKey:
    """A key record."""

    uuid: bytes
    public: bytes
    check: bytes
    wrapped: bytes
    provider: str
    key_id: str


@dataclass(frozen=True)
class About:
    """Of which process a dump is."""

    uuid: bytes
    time: int
    pid: int
    uid: int
    gid: int
    signal: int
    program: str
    host: str


@dataclass(frozen=True)
class Lock:
    """How a DEK is sealed: by a dump key, or with a passphrase's cost, salt and nonce."""

    kind: int
    key: DumpKey | None
    cost: native.Cost | None
    salt: bytes
    nonce: bytes
    sealed: bytes


def make_key(uuid: bytes, private: EllipticCurvePrivateKey, host_key: bytes, provider: str, key_id: str) -> DumpKey:
    """The record of a key pair."""
    scalar = private.private_numbers().private_value.to_bytes(32, "big")
    return DumpKey(uuid, hpke.public_bytes(private), keys.key_check(host_key), keys.wrap(host_key, scalar), provider, key_id)


def private_half(key: DumpKey, host_key: bytes) -> EllipticCurvePrivateKey:
    """What the host key wraps."""
    if keys.key_check(host_key) != key.check:
        raise KeyRejected("the key check differs")
    private = hpke.private_of(int.from_bytes(keys.unwrap(host_key, key.wrapped, 32), "big"))
    demand(hpke.public_bytes(private) == key.public, "the halves do not belong together")
    return private


def key_bytes(key: DumpKey) -> bytes:
    """A key record."""
    key_id = key.key_id.encode()
    return key.uuid + key.public + key.check + key.wrapped + text(key.provider) + struct.pack("<H", len(key_id)) + key_id


def read_text(fields: Fields, length: int) -> str:
    """The next text, of which the length is known."""
    try:
        return fields.take(length).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Corrupt("not UTF-8") from error


def read_key(fields: Fields) -> DumpKey:
    """The next key record."""
    uuid, public, check, wrapped = (fields.take(length) for length in (16, 65, 8, 40))
    provider = read_text(fields, fields.number(1))
    demand(PROVIDER.fullmatch(provider.encode()) is not None, f"provider name {provider!r}")
    length = fields.number(2)
    demand(1 <= length <= 512, f"a key id of {length} bytes")
    key_id = read_text(fields, length)
    demand(not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in key_id), "control characters in a key id")
    return DumpKey(uuid, public, check, wrapped, provider, key_id)


def encode_key_file(made: int, key: DumpKey) -> bytes:
    """A dump key file."""
    return native.summed(start(KEY_FILE) + struct.pack("<Q", made) + key_bytes(key))


def decode_key_file(data: bytes) -> tuple[int, DumpKey]:
    """Read a dump key file."""
    Fields(data, KEY_FILE)
    demand(len(data) >= 32 and native.summed(data[:-32]) == data, "wrong checksum")
    fields = Fields(data[:-32], KEY_FILE)
    made, key = fields.number(8), read_key(fields)
    fields.end()
    return made, key


def before_lock(about: About) -> bytes:
    """All before the lock."""
    return (start(DUMP) + about.uuid + struct.pack("<QIIII", about.time, about.pid, about.uid, about.gid, about.signal)
            + text(about.program) + text(about.host))


def header_for_host(about: About, key: DumpKey, ephemeral: EllipticCurvePrivateKey, dek: bytes) -> bytes:
    """The header of a dump that is sealed to a dump key."""
    clear = before_lock(about) + bytes([HOST_KEY]) + key_bytes(key)
    return clear + hpke.seal(key.public, ephemeral, INFO, clear, dek)


def header_for_passphrase(about: About, passphrase: str, cost: native.Cost, salt: bytes, nonce: bytes, dek: bytes) -> bytes:
    """The header of a dump that is sealed under a passphrase."""
    clear = before_lock(about) + struct.pack("<BIII", PASSPHRASE, cost.memory_kib, cost.passes, cost.lanes) + salt + nonce
    return clear + AESGCM(native.argon2id(passphrase.encode(), salt, cost)).encrypt(nonce, dek, clear)


def decode_header(data: bytes) -> tuple[About, Lock, int, int]:
    """The header of a dump; where its sealed DEK begins, and its pieces."""
    fields = Fields(data[:MAX_HEADER], DUMP)
    uuid, time = fields.take(16), fields.number(8)
    pid, uid, gid, signal = (fields.number(4) for _ in range(4))
    program = read_text(fields, fields.number(1))
    about = About(uuid, time, pid, uid, gid, signal, program, read_text(fields, fields.number(1)))
    kind = fields.number(1)
    demand(kind in (HOST_KEY, PASSPHRASE), f"lock {kind}")
    if kind == HOST_KEY:
        key, at = read_key(fields), fields.at
        return about, Lock(kind, key, None, b"", b"", fields.take(65 + 48)), at, fields.at
    memory, passes, lanes = (fields.number(4) for _ in range(3))
    demand(1 <= passes <= 64 and 1 <= lanes <= 16 and 8 * lanes <= memory <= 4194304, "a cost that none has")
    salt, nonce, at = fields.take(16), fields.take(12), fields.at
    return about, Lock(kind, None, native.Cost(memory, passes, lanes), salt, nonce, fields.take(48)), at, fields.at


def open_dek(data: bytes, lock: Lock, sealed_at: int, secret: bytes | str) -> bytes:
    """The DEK, by the host key or the passphrase."""
    clear = data[:sealed_at]
    if lock.key is not None:
        assert isinstance(secret, bytes)
        return hpke.unseal(private_half(lock.key, secret), lock.sealed, INFO, clear)
    assert isinstance(secret, str) and lock.cost is not None
    try:
        return AESGCM(native.argon2id(secret.encode(), lock.salt, lock.cost)).decrypt(lock.nonce, lock.sealed, clear)
    except InvalidTag as error:
        raise KeyRejected("wrong passphrase") from error


def seal_piece(dek: bytes, number: int, kind: int, length: int, plain: bytes) -> bytes:
    """A piece."""
    head = HEAD.pack(kind, bytes(3), length)
    return head + AESGCM(dek).encrypt(struct.pack("<QB3x", number, kind), plain, head)


def seal_pieces(dek: bytes, plain: bytes, end: int = LAST) -> bytes:
    """A whole dump's pieces: runs of zeros are one piece."""
    pieces: list[tuple[int, int, bytes]] = []
    whole = len(plain) // PIECE * PIECE
    for at in range(0, whole, PIECE):
        part = plain[at:at + PIECE]
        if any(part):
            pieces.append((DATA, PIECE, part))
        elif pieces and pieces[-1][0] == ZEROS:
            pieces[-1] = (ZEROS, pieces[-1][1] + 1, b"")
        else:
            pieces.append((ZEROS, 1, b""))
    pieces.append((end, len(plain) - whole, plain[whole:]))
    return b"".join(seal_piece(dek, number, *piece) for number, piece in enumerate(pieces))


def open_pieces(dek: bytes, data: bytes) -> tuple[bytes, bool]:
    """The dump, and whether its writer had to stop."""
    plain, at, number = [], 0, 0
    while True:
        demand(at + HEAD.size <= len(data), "the dump is cut off")
        head = data[at:at + HEAD.size]
        kind, reserved, length = HEAD.unpack(head)
        demand(kind in (DATA, ZEROS, LAST, CUT), f"a piece of kind {kind}")
        demand(reserved == bytes(3), "reserved bytes are set")
        demand({DATA: length == PIECE, ZEROS: length > 0}.get(kind, length < PIECE), f"a piece of length {length}")
        sealed_len = (0 if kind == ZEROS else length) + 16
        sealed = data[at + HEAD.size:at + HEAD.size + sealed_len]
        demand(len(sealed) == sealed_len, "the dump is cut off")
        try:
            part = AESGCM(dek).decrypt(struct.pack("<QB3x", number, kind), sealed, head)
        except InvalidTag as error:
            raise Corrupt(f"piece {number} does not authenticate") from error
        plain.append(bytes(length * PIECE) if kind == ZEROS else part)
        at, number = at + HEAD.size + sealed_len, number + 1
        if kind in (LAST, CUT):
            demand(at == len(data), "bytes after the last piece")
            return b"".join(plain), kind == CUT
