"""HPKE (RFC 9180), base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM: one message a context."""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .errors import KeyRejected

KEM_SUITE = b"KEM" + (0x10).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x10, 1, 2))


def private_of(scalar: int) -> ec.EllipticCurvePrivateKey:
    """A private key of P-256."""
    return ec.derive_private_key(scalar, ec.SECP256R1())


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The uncompressed point."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def seal(public: bytes, ephemeral: ec.EllipticCurvePrivateKey, info: bytes, aad: bytes, plain: bytes) -> bytes:
    """`enc` and the ciphertext."""
    recipient = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    enc = public_bytes(ephemeral)
    key, nonce = schedule(shared(ephemeral.exchange(ec.ECDH(), recipient), enc + public), info)
    return enc + AESGCM(key).encrypt(nonce, plain, aad)


def unseal(private: ec.EllipticCurvePrivateKey, sealed: bytes, info: bytes, aad: bytes) -> bytes:
    """The plaintext of `seal`."""
    enc, ciphertext = sealed[:65], sealed[65:]
    try:
        sender = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), enc)
        key, nonce = schedule(shared(private.exchange(ec.ECDH(), sender), enc + public_bytes(private)), info)
        return AESGCM(key).decrypt(nonce, ciphertext, aad)
    except (InvalidTag, ValueError) as error:
        raise KeyRejected("it does not open") from error


def shared(dh: bytes, kem_context: bytes) -> bytes:
    """ExtractAndExpand of section 4.1."""
    return expand(KEM_SUITE, extract(KEM_SUITE, b"", b"eae_prk", dh), b"shared_secret", kem_context, 32)


def schedule(secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the first message, section 5.1 with mode 0."""
    context = b"\0" + extract(SUITE, b"", b"psk_id_hash", b"") + extract(SUITE, b"", b"info_hash", info)
    prk = extract(SUITE, secret, b"secret", b"")
    return expand(SUITE, prk, b"key", context, 32), expand(SUITE, prk, b"base_nonce", context, 12)


def extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    """LabeledExtract."""
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + key, hashlib.sha256).digest()


def expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand, of at most one block."""
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.new(prk, labeled + b"\x01", hashlib.sha256).digest()[:length]
