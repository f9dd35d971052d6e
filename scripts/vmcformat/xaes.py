"""XAES-256-GCM (C2SP): AES-256-GCM under a key that the first half of a 192-bit nonce derives, by CMAC."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

NONCE_LEN = 24
TAG_LEN = 16


def _aes(key: bytes, block: bytes) -> bytes:
    context = Cipher(AES(key), ECB()).encryptor()  # one block: no mode at all
    return context.update(block) + context.finalize()


def derived_key(key: bytes, nonce: bytes) -> bytes:
    """The AES-GCM key for all nonces that begin with the same 12 bytes."""
    doubled = int.from_bytes(_aes(key, bytes(16)), "big") << 1
    if doubled >> 128:
        doubled = (doubled ^ 0x87) & (2**128 - 1)
    halves = []
    for counter in (1, 2):
        block = bytes((0, counter)) + b"X\0" + nonce[:12]
        halves.append(_aes(key, (int.from_bytes(block, "big") ^ doubled).to_bytes(16, "big")))
    return b"".join(halves)


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and tag."""
    sealed = AESGCM(derived_key(key, nonce)).encrypt(nonce[12:], plaintext, associated)
    return sealed[:-TAG_LEN], sealed[-TAG_LEN:]


def open_(key: bytes, nonce: bytes, ciphertext: bytes, tag: bytes, associated: bytes) -> bytes | None:
    """Plaintext; None if it does not authenticate."""
    try:
        return AESGCM(derived_key(key, nonce)).decrypt(nonce[12:], ciphertext + tag, associated)
    except InvalidTag:
        return None
