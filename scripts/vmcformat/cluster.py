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
    marks: int = 0


@dataclass(frozen=True)
class Generation:
    """A primary key of a shared provider."""

    primary: bytes
    since: int
    check: bytes
    retired: int = 0


@dataclass(frozen=True)
class Provider:
    """A shared provider."""

    name: str
    generations: tuple[Generation, ...]


@dataclass(frozen=True)
class Pushed:
    """A provider whose KEKs keepers push."""

    name: str
    kind: str
    uuid: bytes
    since: int
    life: int
    flags: int
    keepers: tuple[bytes, ...]
    places: tuple[str, ...]


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
    admins_since: int = 0
    resumed: int = 0
    pushed: tuple[Pushed, ...] = ()

    def version(self) -> int:
        """The lowest that can say all of it."""
        if self.pushed:
            return 3
        plain = not self.admins_since and not self.resumed and not any(member.marks for member in self.members)
        return 1 if plain and all(is_only(provider.generations) for provider in self.providers) else 2


def is_only(generations: tuple[Generation, ...]) -> bool:
    """Whether there never was another generation."""
    return len(generations) == 1 and not generations[0].retired


class Fields:
    """Takes fields off the front of bytes."""

    def __init__(self, data: bytes, magic: bytes, versions: tuple[int, ...] = (VERSION,)) -> None:
        self.data, self.at = data, 0
        demand(self.take(8) == magic, "wrong magic")
        self.version = self.number(2)
        if self.version not in versions:
            raise Unsupported(f"version {self.version}")
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


def start(magic: bytes, version: int = VERSION) -> bytes:
    """What every record begins with."""
    return struct.pack("<8sH6x", magic, version)


def text(value: str) -> bytes:
    """A text with its length."""
    return bytes([len(value.encode())]) + value.encode()


def host_bytes(host: Host) -> bytes:
    """A host."""
    return host.uuid + host.seal_key + host.sign_key + text(host.name)


def body(document: Document, version: int | None = None) -> bytes:
    """What admins sign, in its own version or a given one."""
    version = version or document.version()
    parts = [start(DOCUMENT, version), struct.pack("<Q", document.epoch), document.cluster, document.previous,
             text(document.name), bytes([document.threshold, len(document.admins)]), *document.admins]
    if version > 1:
        parts.append(struct.pack("<QQ", document.admins_since, document.resumed))
    parts.append(struct.pack("<H", len(document.members)))
    for member in document.members:
        marks = bytes([member.marks]) if version > 1 else b""
        parts += [bytes([member.state]), marks, struct.pack("<Q", member.since), member.token, host_bytes(member.host)]
    parts.append(bytes([len(document.providers)]))
    for provider in document.providers:
        parts += provider_parts(provider, version)
    if version > 2:
        parts.append(bytes([len(document.pushed)]))
        for pushed in document.pushed:
            parts += pushed_parts(pushed)
    return b"".join(parts)


def pushed_parts(pushed: Pushed) -> list[bytes]:
    """A pushed provider."""
    return [text(pushed.name), text(pushed.kind), pushed.uuid, struct.pack("<QIB", pushed.since, pushed.life, pushed.flags),
            bytes([len(pushed.keepers)]), *pushed.keepers, bytes([len(pushed.places)]), *map(text, pushed.places)]


def provider_parts(provider: Provider, version: int) -> list[bytes]:
    """A provider."""
    if version == 1:
        [only] = provider.generations
        return [only.primary, struct.pack("<Q", only.since), only.check, text(provider.name)]
    parts = [text(provider.name), bytes([len(provider.generations)])]
    for one in provider.generations:
        parts += [one.primary, struct.pack("<QQ", one.since, one.retired), one.check]
    return parts


def sign(document: Document, seeds: list[bytes], version: int | None = None) -> bytes:
    """A document, signed by the admins with these seeds, in their order."""
    content = body(document, version)
    by = {seed: public(seed) if content[8] > 1 else bytes([document.admins.index(public(seed))]) for seed in seeds}
    signatures = [by[seed] + signature(seed, SIGNED_DOCUMENT + content) for seed in seeds]
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
    fields = Fields(data, DOCUMENT, (1, 2, 3))
    epoch, cluster, previous, name = fields.number(8), fields.take(16), fields.take(32), fields.name()
    threshold = fields.number(1)
    admins = tuple(fields.take(32) for _ in range(fields.number(1)))
    admins_since, resumed = (fields.number(8), fields.number(8)) if fields.version > 1 else (0, 0)
    members = tuple(decode_member(fields) for _ in range(fields.number(2)))
    providers = tuple(decode_provider(fields) for _ in range(fields.number(1)))
    pushed = tuple(decode_pushed(fields) for _ in range(fields.number(1))) if fields.version > 2 else ()
    document = Document(epoch, cluster, previous, name, threshold, admins, members, providers, admins_since, resumed, pushed)
    check_document(document)
    demand(document.version() == fields.version, "a version for what an earlier one says")
    content = data[:fields.at]
    signatures = [(fields.take(32 if fields.version > 1 else 1), fields.take(64)) for _ in range(fields.number(1))]
    fields.end()
    ascending([by for by, _ in signatures], "signatures")
    good = sum(verifies(key, SIGNED_DOCUMENT + content, signed)
               for key, signed in ((admin_of(by, admins), signed) for by, signed in signatures) if key in admins)
    if good < threshold:
        raise Denied(f"{good} signatures, expected {threshold}")
    return document, hashlib.sha256(content).digest()


def admin_of(by: bytes, admins: tuple[bytes, ...]) -> bytes:
    """The key that an index names, or a key."""
    if len(by) == 32:
        return by
    return admins[by[0]] if by[0] < len(admins) else b""


def decode_member(fields: Fields) -> Member:
    """The next member."""
    state = fields.number(1)
    marks = fields.number(1) if fields.version > 1 else 0
    demand(state in (1, 2), f"state {state}")
    demand(marks <= 7 and (state == 2 or not marks), f"marks {marks}")
    since, token = fields.number(8), fields.take(16)
    return Member(fields.host(), state, since, token, marks)


def decode_provider(fields: Fields) -> Provider:
    """The next provider."""
    if fields.version == 1:
        primary, since, check = fields.take(16), fields.number(8), fields.take(32)
        return Provider(fields.name(), (Generation(primary, since, check),))
    name, generations = fields.name(), []
    for _ in range(fields.number(1)):
        primary, since, retired = fields.take(16), fields.number(8), fields.number(8)
        generations.append(Generation(primary, since, fields.take(32), retired))
    return Provider(name, tuple(generations))


def decode_pushed(fields: Fields) -> Pushed:
    """The next pushed provider."""
    name, kind, uuid = fields.name(), fields.name(), fields.take(16)
    since, life, flags = fields.number(8), fields.number(4), fields.number(1)
    keepers = tuple(fields.take(16) for _ in range(fields.number(1)))
    places = tuple(fields.take(fields.number(1)).decode("ascii", "replace") for _ in range(fields.number(1)))
    return Pushed(name, kind, uuid, since, life, flags, keepers, places)


def check_pushed(document: Document) -> None:
    """Those of a document."""
    ascending([pushed.name for pushed in document.pushed], "pushed providers")
    names = {provider.name for provider in document.providers}
    uuids = [one.primary for provider in document.providers for one in provider.generations]
    uuids += [pushed.uuid for pushed in document.pushed]
    demand(len(set(uuids)) == len(uuids), "one uuid twice")
    for pushed in document.pushed:
        demand(pushed.name not in names, "one name twice")
        demand(pushed.since <= document.epoch and 1 <= pushed.life <= 31536000 and pushed.flags <= 1, "since, life or flags")
        demand(1 <= len(pushed.keepers) <= 16 and len(pushed.places) <= 16, "number of keepers or places")
        ascending(list(pushed.keepers), "keepers")
        demand(set(pushed.keepers) <= {member.host.uuid for member in document.members}, "a keeper that is not a member")
        demand(all(place and all(" " <= letter <= "~" for letter in place) for place in pushed.places), "places")


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
    epochs = [member.since for member in document.members] + [document.admins_since, document.resumed]
    for provider in document.providers:
        check_generations(provider.generations)
        epochs += [epoch for one in provider.generations for epoch in (one.since, one.retired)]
    demand(all(epoch <= document.epoch for epoch in epochs), "something is so since later than the document")
    in_use = [one for provider in document.providers for one in provider.generations if not one.retired]
    demand(len(in_use) + len(document.pushed) <= 255, "too many primary keys")
    check_pushed(document)


def check_generations(generations: tuple[Generation, ...]) -> None:
    """Those of one provider."""
    demand(len(generations) > 0 and not generations[-1].retired, "no generation in use")
    ascending([one.since for one in generations], "generations")
    demand(all(one.retired == 0 or one.retired > one.since for one in generations), "retired before it was shared")
    demand(len({one.primary for one in generations}) == len(generations), "two generations have one primary key")


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


def encode_ack(cluster: bytes, host: bytes, epoch: int, document: bytes, time: int, holds: list[bytes], seed: bytes,
               makes: list[bytes] | None = None) -> bytes:
    """An acknowledgement, of version 2 if it says by which keys a host makes new ones."""
    content = b"".join([start(ACK, 1 if makes is None else 2), cluster, host, struct.pack("<Q", epoch), document,
                        struct.pack("<Q", time), bytes([len(holds)]), *holds])
    if makes is not None:
        content += b"".join([bytes([len(makes)]), *makes])
    return content + signature(seed, SIGNED_ACK + content)


@dataclass(frozen=True)
class Ack:
    """What a host has acknowledged."""

    epoch: int
    document: bytes
    time: int
    holds: list[bytes]
    makes: list[bytes]


def decode_ack(data: bytes, cluster: bytes, host: bytes, sign_key: bytes) -> Ack:
    """What a host of a cluster has acknowledged."""
    fields = Fields(data, ACK, (1, 2))
    ids = fields.take(16) + fields.take(16)
    epoch, document, time = fields.number(8), fields.take(32), fields.number(8)
    holds = [fields.take(16) for _ in range(fields.number(1))]
    makes = [fields.take(16) for _ in range(fields.number(1))] if fields.version == 2 else []
    content = data[:fields.at]
    signed = fields.take(64)
    fields.end()
    ascending(holds, "primary keys")
    ascending(makes, "primary keys")
    demand(fields.version == 1 or len(makes) > 0, "version 2 for what version 1 says")
    if ids != cluster + host or not verifies(sign_key, SIGNED_ACK + content, signed):
        raise Denied("not by this host")
    return Ack(epoch, document, time, holds, makes)


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
