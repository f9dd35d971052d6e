"""KEKs, DEKs and what binds them: derivation, key check, wrapping (FORMAT.md section 3)."""

import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from .errors import Corrupt

KEK_LEN = 32
DISK_DEK_LEN = 64
HOME_DEK_LEN = 32


def hkdf(salt: bytes, ikm: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA-256 of RFC 5869, extract and expand."""
    # RFC 5869: no salt is a salt of zeros, which HMAC makes of an empty one too.
    return HKDF(hashes.SHA256(), length, salt or None, info).derive(ikm)


def key_check(kek: bytes) -> bytes:
    """The 8 bytes by which a slot recognises its KEK."""
    return hkdf(b"", kek, b"vmcryptfs v1 key check", 8)


def shared_kek(key: bytes, share: bytes) -> bytes:
    """The KEK of a provider's key and a share."""
    return hkdf(share, key, b"vmcryptfs v1 KEK of key and share", KEK_LEN)


def shared_key_check(key: bytes, share: bytes) -> bytes:
    """The 8 bytes by which a slot recognises a KEK of a provider's key and a share: one half each."""
    return key_check(key)[:4] + hkdf(b"", shared_kek(key, share), b"vmcryptfs v1 shared key check", 4)


def header_hmac(uuid: bytes, dek: bytes, authenticated: bytes) -> bytes:
    """The header's authentication code over its bytes 0 to 8127."""
    key = hkdf(uuid, dek, b"vmcryptfs v1 header authentication", 32)
    return hmac.new(key, authenticated, hashlib.sha256).digest()


def wrap(kek: bytes, key: bytes) -> bytes:
    """AES-256-KWP of RFC 5649."""
    return aes_key_wrap_with_padding(kek, key)


def unwrap(kek: bytes, wrapped: bytes, length: int) -> bytes:
    """The wrapped key, which must be of the given length."""
    try:
        key = aes_key_unwrap_with_padding(kek, wrapped)
    except InvalidUnwrap as error:
        raise Corrupt("the wrapped key does not unwrap") from error
    # KWP pads to 8 bytes, so the wrapped length alone does not tell 57 to 64 bytes apart.
    if len(key) != length:
        raise Corrupt(f"the unwrapped key has {len(key)} bytes, not {length}")
    return key


def unwrap_dek(kek: bytes, wrapped: bytes, length: int) -> bytes:
    """The DEK in a slot. IEEE 1619 wants K1 and K2 of a disk to differ."""
    dek = unwrap(kek, wrapped, length)
    if length == DISK_DEK_LEN and dek[:32] == dek[32:]:
        raise Corrupt("the two halves of the DEK are equal")
    return dek
