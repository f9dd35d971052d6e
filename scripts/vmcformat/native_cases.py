"""Vectors of the native provider's files."""

from uuid import UUID

from .header_bad import flipped
from .keys import wrap
from .native import (
    CHECKSUM_LEN,
    Backup,
    Cost,
    PrimaryKey,
    SealedShare,
    encode_backup,
    encode_primary,
    encode_sealed_share,
    has_argon2,
    make_key_id,
    summed,
)
from .samples import KEK
from .vectorfile import VectorFile, derive, derive_uuid

PRIMARY = PrimaryKey(derive_uuid("primary key"), derive("primary key", 32))
OTHER_PRIMARY = PrimaryKey(derive_uuid("another primary key"), derive("another primary key", 32))
BACKUP = Backup("local", PRIMARY.uuid, Cost(64, 1, 1), derive("backup salt", 16), derive("backup nonce", 12))
PASSPHRASE = "correct horse battery staple"
UTF8_PASSPHRASE = "Grüße aus 東京 💾"
BACKUP_PREFIX = "backup-"


def vectors() -> dict[str, VectorFile]:
    """File name to vector; without Argon2id, without those of backups."""
    backups = backup_vectors() if has_argon2() else {}
    return {**primary_vectors(), **key_id_vectors(), **sealed_share_vectors(), **backups}


def primary_vectors() -> dict[str, VectorFile]:
    """Primary key files."""
    good = encode_primary(PRIMARY)
    cases = {
        "magic-wrong": ("corrupt", "wrong magic", resummed(b"VMCRYPTF" + good[8:])),
        "version-2": ("unsupported", "version 2", resummed(good[:8] + b"\x02" + good[9:])),
        "version-2-longer": ("unsupported", "version 2 is judged before the length", good[:8] + b"\x02\0" + good),
        "reserved-10": ("corrupt", "reserved byte 10 is 1", resummed(good[:10] + b"\x01" + good[11:])),
        "reserved-15": ("corrupt", "reserved byte 15 is 1", resummed(good[:15] + b"\x01" + good[16:])),
        "checksum-wrong": ("corrupt", "one bit of the key flipped", flipped(good, 32)),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "long": ("corrupt", "a byte follows", good + b"\0"),
        "short-in-version": ("corrupt", "the file ends within the version", good[:9]),
    }
    fields = [("expect", "ok"), ("what", "primary-key"), ("why", "a primary key"), *primary_fields()]
    return {
        "primary-key": VectorFile(tuple(fields), (good,)),
        **{f"primary-key-{name}": VectorFile((("expect", expect), ("what", "primary-key"), ("why", why)), (data,))
           for name, (expect, why, data) in cases.items()},
    }


def primary_fields() -> list[tuple[str, str]]:
    """What is in the primary key file."""
    return [("uuid", str(UUID(bytes=PRIMARY.uuid))), ("key", PRIMARY.key.hex())]


def sealed_share_vectors() -> dict[str, VectorFile]:
    """Files of shares that are sealed to a TPM. What the TPM made of them is any bytes here."""
    sealed = SealedShare(derive_uuid("a share"), derive("root key", 64), 1 << 7 | 1 << 23, derive("private", 174),
                         derive("public", 78))
    good = encode_sealed_share(sealed)

    def put(at: int, new: bytes) -> bytes:
        return resummed(good[:at] + new + good[at + len(new):])

    longest = SealedShare(sealed.uuid, sealed.root, 0, derive("private", 2048), b"")
    too_long = SealedShare(sealed.uuid, sealed.root, 0, derive("private", 2049), b"")
    cases = {
        "magic-wrong": ("corrupt", "the magic of a share that is not sealed", put(0, b"VMCRYPTK")),
        "version-2": ("unsupported", "version 2, which is judged before the checksum", good[:8] + b"\x02" + good[9:]),
        "short-in-version": ("corrupt", "the file ends within the version", good[:9]),
        "checksum-wrong": ("corrupt", "one bit of the object flipped", flipped(good, 120)),
        "short-in-head": ("corrupt", "the file ends within the head", summed(good[:99])),
        "reserved-14": ("corrupt", "reserved byte 14 is 1", put(14, b"\x01")),
        "pcr-24": ("corrupt", "a PCR that none has", put(99, b"\x01")),
        "private-longer": ("corrupt", "the private part is a byte longer than what is there", put(10, b"\xaf")),
        "long": ("corrupt", "a byte follows the object", summed(good[:-CHECKSUM_LEN] + b"\0")),
        "too-long": ("corrupt", "a private part of 2049 bytes", encode_sealed_share(too_long)),
    }
    whole = {"sealed-share": ("a share that is sealed to a TPM and two PCRs", sealed),
             "sealed-share-longest": ("the longest private part, no PCRs", longest)}
    made = {name: VectorFile((("expect", "ok"), ("what", "sealed-share"), ("why", why), ("uuid", str(UUID(bytes=of.uuid))),
                              ("root", of.root.hex()), ("pcrs", str(of.pcrs)), ("private", of.private.hex()),
                              ("public", of.public.hex())), (encode_sealed_share(of),))
            for name, (why, of) in whole.items()}
    return made | {f"sealed-share-{name}": VectorFile((("expect", expect), ("what", "sealed-share"), ("why", why)), (data,))
                   for name, (expect, why, data) in cases.items()}


def resummed(content: bytes) -> bytes:
    """The file with its checksum made right."""
    return summed(content[:-CHECKSUM_LEN])


def key_id_vectors() -> dict[str, VectorFile]:
    """Key ids under one primary key."""
    good = make_key_id(PRIMARY, KEK)
    uuid, _, wrapped = good.partition("/")
    # 40 bytes leave 4 unused bits in the last letter: the next letter of the alphabet decodes to the same bytes.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    unused_bit = wrapped[:-1] + alphabet[alphabet.index(wrapped[-1]) + 1]
    damaged = ("A" if wrapped[5] != "A" else "B").join([wrapped[:5], wrapped[6:]])
    short_kek = make_key_id(PRIMARY, KEK[:31])
    cases = {
        "primary-key-other": ("key-unavailable", "of another primary key", make_key_id(OTHER_PRIMARY, KEK)),
        "damaged": ("corrupt", "one letter of the wrapped KEK changed", f"{uuid}/{damaged}"),
        "wrapped-by-other": ("corrupt", "the right UUID on what another primary key wrapped",
                             f"{uuid}/{make_key_id(OTHER_PRIMARY, KEK).partition('/')[2]}"),
        "kek-31": ("corrupt", "a KEK of 31 bytes, which wraps into 40 too", short_kek),
        "upper-case": ("corrupt", "the UUID in upper case", f"{uuid.upper()}/{wrapped}"),
        "no-hyphens": ("corrupt", "the UUID without hyphens", f"{uuid.replace('-', '')}/{wrapped}"),
        "no-slash": ("corrupt", "no slash", uuid + wrapped),
        "padding": ("corrupt", "base64url with its padding", f"{good}=="),
        "unused-bit": ("corrupt", "an unused bit of base64url is set", f"{uuid}/{unused_bit}"),
        "standard-alphabet": ("corrupt", "a plus, of base64 and not base64url", f"{uuid}/+{wrapped[1:]}"),
        "short": ("corrupt", "the last letter is missing", good[:-1]),
        "empty-wrapped": ("corrupt", "nothing behind the slash", f"{uuid}/"),
        "wrapped-48": ("corrupt", "48 wrapped bytes", make_key_id(PRIMARY, KEK + bytes(8))),
    }
    primary = encode_primary(PRIMARY)
    fields = (("expect", "ok"), ("what", "key-id"), ("why", "a KEK"), ("key_id", good), ("kek", KEK.hex()),
              ("wrapped", wrap(PRIMARY.key, KEK).hex()))
    return {
        "key-id": VectorFile(fields, (primary,)),
        **{f"key-id-{name}": VectorFile((("expect", expect), ("what", "key-id"), ("why", why), ("key_id", key_id)),
                                        (primary,))
           for name, (expect, why, key_id) in cases.items()},
    }


def backup_vectors() -> dict[str, VectorFile]:
    """Backup files, with costs far below those that are written in earnest."""
    return {**good_backups(), **{f"{BACKUP_PREFIX}{name}": vector for name, vector in bad_backups().items()}}


def good_backups() -> dict[str, VectorFile]:
    """Backups that open."""
    longest = Backup("p" * 64, PRIMARY.uuid, Cost(64, 3, 4), BACKUP.salt, BACKUP.nonce)
    smallest = Backup("a", PRIMARY.uuid, Cost(8, 1, 1), BACKUP.salt, BACKUP.nonce)
    cases = {
        "plain": ("a backup of little cost", BACKUP, PASSPHRASE),
        "utf8": ("a passphrase that is not ASCII", BACKUP, UTF8_PASSPHRASE),
        "lanes": ("several passes and lanes, the longest provider name", longest, PASSPHRASE),
        "smallest": ("the smallest cost, the shortest provider name", smallest, PASSPHRASE),
    }
    return {f"{BACKUP_PREFIX}{name}": good_backup(*case) for name, case in cases.items()}


def good_backup(why: str, backup: Backup, passphrase: str) -> VectorFile:
    """The vector of a backup that opens."""
    cost = backup.cost
    fields = [
        ("expect", "ok"), ("what", "backup"), ("why", why), ("passphrase", passphrase),
        ("provider", backup.provider), ("memory_kib", str(cost.memory_kib)), ("passes", str(cost.passes)),
        ("lanes", str(cost.lanes)), ("salt", backup.salt.hex()), ("nonce", backup.nonce.hex()), *primary_fields(),
    ]
    return VectorFile(tuple(fields), (encode_backup(backup, PRIMARY.key, passphrase),))


def bad_backups() -> dict[str, VectorFile]:
    """Backup files with one defect; their checksum is right unless it is the defect."""
    good = encode_backup(BACKUP, PRIMARY.key, PASSPHRASE)

    def put(at: int, new: bytes) -> bytes:
        return resummed(good[:at] + new + good[at + len(new):])

    def named(length: int) -> bytes:
        return resummed(put(10, bytes([length]))[:68] + b"p" * length + good[73:])

    cases = {
        "passphrase-wrong": ("key-rejected", "another passphrase", good, PASSPHRASE + "r"),
        "sealed-flipped": ("corrupt", "one bit of the sealed key flipped", flipped(good, 68 + 5), PASSPHRASE),
        "salt-flipped": ("corrupt", "one bit of the salt flipped", flipped(good, 24), PASSPHRASE),
        "checksum-flipped": ("corrupt", "one bit of the checksum flipped", flipped(good, len(good) - 1), PASSPHRASE),
        "damaged-and-passphrase-wrong": ("corrupt", "one bit flipped, and another passphrase", flipped(good, 52),
                                         PASSPHRASE + "r"),
        "tag-forged": ("key-rejected", "one bit of the tag flipped under a right checksum",
                       resummed(flipped(good, len(good) - 33)), PASSPHRASE),
        "uuid-forged": ("key-rejected", "one bit of the uuid flipped under a right checksum",
                        resummed(flipped(good, 52)), PASSPHRASE),
        "name-forged": ("key-rejected", "another letter in the provider's name under a right checksum", put(68, b"L"),
                        PASSPHRASE),
        "magic-wrong": ("corrupt", "the magic of a primary key file", put(0, b"VMCRYPTP"), PASSPHRASE),
        "version-2": ("unsupported", "version 2", put(8, b"\x02"), PASSPHRASE),
        "reserved-11": ("corrupt", "reserved byte 11 is 1", put(11, b"\x01"), PASSPHRASE),
        "version-2-checksum-elsewhere": ("unsupported", "version is judged before the checksum, which is wrong too",
                                         good[:8] + b"\x02" + good[9:], PASSPHRASE),
        "name-empty": ("corrupt", "a provider name of 0 bytes", named(0), PASSPHRASE),
        "name-65": ("corrupt", "a provider name of 65 bytes", named(65), PASSPHRASE),
        "name-slash": ("corrupt", "a provider name with a slash", put(70, b"/"), PASSPHRASE),
        "name-len-wrong": ("corrupt", "a length of the name that leaves too little for the key", put(10, b"\x06"),
                           PASSPHRASE),
        "memory-7": ("corrupt", "memory of 7 KiB", put(12, b"\x07\0\0\0"), PASSPHRASE),
        "memory-15-for-2-lanes": ("corrupt", "memory of 15 KiB for 2 lanes",
                                  put(12, b"\x0f\0\0\0\x01\0\0\0\x02\0\0\0"), PASSPHRASE),
        "memory-huge": ("corrupt", "memory of 4 GiB and 1 KiB", put(12, b"\x01\0\x40\0"), PASSPHRASE),
        "passes-0": ("corrupt", "no pass", put(16, b"\0\0\0\0"), PASSPHRASE),
        "passes-65": ("corrupt", "65 passes", put(16, b"\x41\0\0\0"), PASSPHRASE),
        "lanes-0": ("corrupt", "no lane", put(20, b"\0\0\0\0"), PASSPHRASE),
        "lanes-17": ("corrupt", "17 lanes", put(20, b"\x11\0\0\0"), PASSPHRASE),
        "short": ("corrupt", "the last byte is missing", good[:-1], PASSPHRASE),
        "long": ("corrupt", "a byte follows", good + b"\0", PASSPHRASE),
        "long-summed": ("corrupt", "a byte follows the sealed key under a right checksum",
                        resummed(good[:-CHECKSUM_LEN] + bytes(1 + CHECKSUM_LEN)), PASSPHRASE),
        "short-in-version": ("corrupt", "the file ends within the version", good[:9], PASSPHRASE),
        "short-summed": ("corrupt", "the file ends within the salt under a right checksum", summed(good[:30]),
                         PASSPHRASE),
        "cut-in-salt": ("corrupt", "the file ends within the salt", good[:30], PASSPHRASE),
    }
    return {name: VectorFile((("expect", expect), ("what", "backup"), ("why", why),
                              ("passphrase", passphrase)), (data,))
            for name, (expect, why, data, passphrase) in cases.items()}
