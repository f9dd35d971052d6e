"""What hosts of a cluster share (FORMAT.md section 18)."""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import hpke, native
from .errors import Denied, KeyRejected, Unsupported
from .header import PROVIDER, VERSION, demand

DOCUMENT, ENVELOPE, JOIN, ACK = b"VMCRYPTD", b"VMCRYPTE", b"VMCRYPTR", b"VMCRYPTA"
ADMIN_KEY, IDENTITY = b"VMCRYPTC", b"VMCRYPTI"
ADMIN_KEY_LEN, IDENTITY_LEN = 168, 193
ENVELOPE_INFO = b"vmcryptfs primary 1"
SIGNED_DOCUMENT = b"vmcryptfs cluster document 1\0"
SIGNED_ACK = b"vmcryptfs cluster ack 1\0"
TOKEN_PREFIX = "vmcryptfs-token-1."
MAX_DOCUMENT = 1 << 20


@dataclass(frozen=True)
class Host:
    """A host as others know it."""

    uuid: bytes
    name: str
    seal_key: bytes
    sign_key: bytes


@dataclass(frozen=True)
class Member:
    """A host of the cluster."""

    host: Host
    state: int
    since: int
    token: bytes


@dataclass(frozen=True)
class Provider:
    """A shared provider."""

    name: str
    primary: bytes
    since: int
    check: bytes


@dataclass(frozen=True)
class Document:
    """The state of a cluster."""

    epoch: int
    cluster: bytes
    previous: bytes
    name: str
    threshold: int
    admins: tuple[bytes, ...]
    members: tuple[Member, ...]
    providers: tuple[Provider, ...]


class Fields:
    """Takes fields off the front of bytes."""

    def __init__(self, data: bytes, magic: bytes) -> None:
        self.data, self.at = data, 0
        demand(self.take(8) == magic, "wrong magic")
        version = self.number(2)
        if version != VERSION:
            raise Unsupported(f"version {version}")
        demand(self.take(6) == bytes(6), "reserved bytes are set")

    def take(self, length: int) -> bytes:
        """The next bytes."""
        demand(self.at + length <= len(self.data), "the bytes end within a field")
        self.at += length
        return self.data[self.at - length:self.at]

    def number(self, length: int) -> int:
        """The next number."""
        return int.from_bytes(self.take(length), "little")

    def name(self) -> str:
        """The next name."""
        name = self.take(self.number(1))
        demand(PROVIDER.fullmatch(name) is not None, f"name {name!r}")
        return name.decode("ascii")

    def host(self) -> Host:
        """The next host."""
        uuid, seal_key, sign_key = self.take(16), self.take(65), self.take(32)
        return Host(uuid, self.name(), seal_key, sign_key)

    def end(self) -> None:
        """Nothing follows."""
        demand(self.at == len(self.data), "bytes after the last field")


def start(magic: bytes) -> bytes:
    """What every record begins with."""
    return struct.pack("<8sH6x", magic, VERSION)


def text(value: str) -> bytes:
    """A text with its length."""
    return bytes([len(value.encode())]) + value.encode()


def host_bytes(host: Host) -> bytes:
    """A host."""
    return host.uuid + host.seal_key + host.sign_key + text(host.name)


def body(document: Document) -> bytes:
    """What admins sign."""
    parts = [start(DOCUMENT), struct.pack("<Q", document.epoch), document.cluster, document.previous, text(document.name),
             bytes([document.threshold, len(document.admins)]), *document.admins,
             struct.pack("<H", len(document.members))]
    for member in document.members:
        parts += [struct.pack("<BQ", member.state, member.since), member.token, host_bytes(member.host)]
    parts.append(bytes([len(document.providers)]))
    for provider in document.providers:
        parts += [provider.primary, struct.pack("<Q", provider.since), provider.check, text(provider.name)]
    return b"".join(parts)


def sign(document: Document, seeds: list[bytes]) -> bytes:
    """A document, signed by the admins with these seeds, in their order."""
    content = body(document)
    signatures = [bytes([document.admins.index(public(seed))]) + signature(seed, SIGNED_DOCUMENT + content) for seed in seeds]
    return content + bytes([len(signatures)]) + b"".join(signatures)


def public(seed: bytes) -> bytes:
    """The public key of a seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def signature(seed: bytes, message: bytes) -> bytes:
    """An Ed25519 signature."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def verifies(key: bytes, message: bytes, signed: bytes) -> bool:
    """Whether a signature is by a key."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed, message)
    except InvalidSignature:
        return False
    return True


def decode_document(data: bytes) -> tuple[Document, bytes]:
    """A document that its own admins have signed, and the hash of its body."""
    demand(len(data) <= MAX_DOCUMENT, "longer than a document may be")
    fields = Fields(data, DOCUMENT)
    epoch, cluster, previous, name = fields.number(8), fields.take(16), fields.take(32), fields.name()
    threshold = fields.number(1)
    admins = tuple(fields.take(32) for _ in range(fields.number(1)))
    members = []
    for _ in range(fields.number(2)):
        state, since, token = fields.number(1), fields.number(8), fields.take(16)
        demand(state in (1, 2), f"state {state}")
        members.append(Member(fields.host(), state, since, token))
    providers = []
    for _ in range(fields.number(1)):
        primary, since, check = fields.take(16), fields.number(8), fields.take(32)
        providers.append(Provider(fields.name(), primary, since, check))
    document = Document(epoch, cluster, previous, name, threshold, admins, tuple(members), tuple(providers))
    check_document(document)
    content = data[:fields.at]
    signatures = [(fields.number(1), fields.take(64)) for _ in range(fields.number(1))]
    fields.end()
    ascending([index for index, _ in signatures], "signatures")
    good = sum(index < len(admins) and verifies(admins[index], SIGNED_DOCUMENT + content, signed)
               for index, signed in signatures)
    if good < threshold:
        raise Denied(f"{good} signatures, expected {threshold}")
    return document, hashlib.sha256(content).digest()


def check_document(document: Document) -> None:
    """The rules that need no other document."""
    demand(document.epoch >= 1 and (document.epoch == 1) == (document.previous == bytes(32)), "epoch and previous")
    demand(1 <= len(document.admins) <= 16 and len(document.members) <= 4096, "number of admins or members")
    demand(1 <= document.threshold <= len(document.admins), "threshold")
    ascending(list(document.admins), "admins")
    ascending([member.host.uuid for member in document.members], "members")
    ascending([provider.name for provider in document.providers], "providers")
    active = [member.host.name for member in document.members if member.state == 1]
    demand(len(active) == len(set(active)), "two active hosts of one name")
    sinces = [member.since for member in document.members] + [provider.since for provider in document.providers]
    demand(all(since <= document.epoch for since in sinces), "since is later than the document")


def ascending(values: list[bytes] | list[str] | list[int], what: str) -> None:
    """Each value is greater than the one before."""
    demand(all(one < other for one, other in zip(values, values[1:])), f"{what} do not ascend")  # type: ignore[operator]


def primary_check(primary: bytes, cluster: bytes, uuid: bytes) -> bytes:
    """What a document says of a primary key."""
    return hmac.digest(primary, b"vmcryptfs cluster primary 1\0" + cluster + uuid, "sha256")


def envelope_aad(cluster: bytes, primary: bytes, host: bytes, provider: str) -> bytes:
    """What an envelope is bound to."""
    return cluster + primary + host + text(provider)


def seal_envelope(public_key: bytes, ephemeral: EllipticCurvePrivateKey, aad: bytes, primary: bytes) -> bytes:
    """An envelope."""
    return start(ENVELOPE) + struct.pack("<H", 1) + hpke.seal(public_key, ephemeral, ENVELOPE_INFO, aad, primary)


def open_envelope(data: bytes, private: EllipticCurvePrivateKey, aad: bytes) -> bytes:
    """The primary key in an envelope."""
    fields = Fields(data, ENVELOPE)
    suite = fields.number(2)
    if suite != 1:
        raise Unsupported(f"suite {suite}")
    sealed = fields.take(65 + 48)
    fields.end()
    return hpke.unseal(private, sealed, ENVELOPE_INFO, aad)


def token_secret(seed: bytes, cluster: bytes, token: bytes, end: int) -> bytes:
    """The secret of a token."""
    info = b"vmcryptfs cluster token 1" + token + struct.pack("<Q", end)
    return HKDF(SHA256(), 32, cluster, info).derive(seed)


def encode_join(cluster: bytes, token: bytes, end: int, host: Host, secret: bytes) -> bytes:
    """A join request."""
    content = start(JOIN) + cluster + token + struct.pack("<Q", end) + host_bytes(host)
    return content + hmac.digest(secret, content, "sha256")


def decode_join(data: bytes, secret: bytes) -> tuple[bytes, bytes, int, Host]:
    """Cluster, token, its end, and the host of a request that is by a token's secret."""
    demand(len(data) <= 4096, "longer than a request may be")
    fields = Fields(data, JOIN)
    cluster, token, end, host = fields.take(16), fields.take(16), fields.number(8), fields.host()
    content = data[:fields.at]
    mac = fields.take(32)
    fields.end()
    if not hmac.compare_digest(mac, hmac.digest(secret, content, "sha256")):
        raise KeyRejected("the MAC is not by this secret")
    return cluster, token, end, host


def encode_ack(cluster: bytes, host: bytes, epoch: int, document: bytes, time: int, holds: list[bytes], seed: bytes) -> bytes:
    """An acknowledgement."""
    content = b"".join([start(ACK), cluster, host, struct.pack("<Q", epoch), document, struct.pack("<Q", time),
                        bytes([len(holds)]), *holds])
    return content + signature(seed, SIGNED_ACK + content)


def decode_ack(data: bytes, cluster: bytes, host: bytes, sign_key: bytes) -> tuple[int, bytes, int, list[bytes]]:
    """Epoch, document, time and primary keys that a host of a cluster has acknowledged."""
    fields = Fields(data, ACK)
    ids = fields.take(16) + fields.take(16)
    epoch, document, time = fields.number(8), fields.take(32), fields.number(8)
    holds = [fields.take(16) for _ in range(fields.number(1))]
    content = data[:fields.at]
    signed = fields.take(64)
    fields.end()
    ascending(holds, "primary keys")
    if ids != cluster + host or not verifies(sign_key, SIGNED_ACK + content, signed):
        raise Denied("not by this host")
    return epoch, document, time, holds


def token_text(cluster: bytes, epoch: int, document: bytes, token: bytes, end: int, secret: bytes, board: str) -> str:
    """A token as one line."""
    content = cluster + struct.pack("<Q", epoch) + document + token + struct.pack("<Q", end) + secret + text(board)
    content += hashlib.sha256(content).digest()[:4]
    return TOKEN_PREFIX + base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")


def admin_key_start(cost: native.Cost, salt: bytes, nonce: bytes, seed: bytes) -> bytes:
    """What an admin key file says in the clear."""
    return start(ADMIN_KEY) + struct.pack("<III", cost.memory_kib, cost.passes, cost.lanes) + salt + nonce + public(seed)


def encode_admin_key(clear: bytes, seed: bytes, key: bytes) -> bytes:
    """An admin key file, sealed with the key that a passphrase stands for."""
    return native.summed(clear + AESGCM(key).encrypt(clear[44:56], seed, clear))


def decode_admin_key(data: bytes, passphrase: str) -> bytes:
    """The seed of an admin key file."""
    fields = private_file(data, ADMIN_KEY, ADMIN_KEY_LEN)
    cost = native.Cost(*(fields.number(4) for _ in range(3)))
    salt, nonce, key = fields.take(16), fields.take(12), fields.take(32)
    demand(1 <= cost.passes <= 64 and 1 <= cost.lanes <= 16, "Argon2id passes or lanes")
    demand(8 * cost.lanes <= cost.memory_kib <= 4194304, "Argon2id memory")
    try:
        seed = AESGCM(native.argon2id(passphrase.encode(), salt, cost)).decrypt(nonce, data[88:136], data[:88])
    except InvalidTag as error:
        raise KeyRejected("wrong passphrase") from error
    demand(public(seed) == key, "the public key is another one's")
    return seed


def encode_identity(uuid: bytes, private: bytes, public_key: bytes, seed: bytes) -> bytes:
    """A host's identity."""
    return native.summed(start(IDENTITY) + uuid + private + public_key + seed)


def decode_identity(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """UUID, HPKE private and public key, and signing seed of a host."""
    fields = private_file(data, IDENTITY, IDENTITY_LEN)
    return fields.take(16), fields.take(32), fields.take(65), fields.take(32)


def private_file(data: bytes, magic: bytes, length: int) -> Fields:
    """The fields of a file that does not leave its owner, judged in the order of section 5."""
    native.demand_ours(data, magic)
    demand(len(data) == length, f"{len(data)} bytes, expected {length}")
    demand(native.summed(data[:-32]) == data, "wrong checksum")
    return Fields(data, magic)
