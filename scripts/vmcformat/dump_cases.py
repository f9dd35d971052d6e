"""Vectors of encrypted dumps."""

import dataclasses
from uuid import UUID

from . import dump, hpke, native
from .dump import CUT, DATA, LAST, PIECE, ZEROS, About, seal_piece, seal_pieces
from .header_bad import flipped
from .native_cases import PASSPHRASE
from .vectorfile import VectorFile, derive, derive_uuid

TIME = 1795980246
HOST_KEY = derive("host key", 32)
DEK = derive("dump dek", 32)
PAIR = hpke.private_of(int.from_bytes(derive("dump key scalar", 32), "big") >> 1)
EPHEMERAL = hpke.private_of(int.from_bytes(derive("dump ephemeral", 32), "big") >> 1)
KEY = dump.make_key(derive_uuid("dump key"), PAIR, HOST_KEY, "corp", "4711")
ABOUT = About(derive_uuid("dump"), TIME, 4242, 64055, 994, 11, "/usr/bin/qemu-system-x86_64", "kvm1")
HEADER = dump.header_for_host(ABOUT, KEY, EPHEMERAL, DEK)
PLAIN = bytes(2 * PIECE) + b"\x01" * PIECE + b"end"
SHORT = bytes(PIECE) + b"end"
COST = native.Cost(32, 1, 4)
SALT, NONCE = derive("dump salt", 16), derive("dump nonce", 12)
PASSPHRASE_PREFIX = "passphrase-"


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {**key_file_vectors(), **good_vectors(), **bad_vectors(), **(passphrase_vectors() if native.has_argon2() else {})}


def key_fields(key: dump.DumpKey) -> tuple[tuple[str, str], ...]:
    """What a key record says."""
    return (("key_uuid", str(UUID(bytes=key.uuid))), ("public", key.public.hex()), ("check", key.check.hex()),
            ("wrapped", key.wrapped.hex()), ("host_key", f"{key.provider}/{key.key_id}"))


def about_fields(about: About) -> tuple[tuple[str, str], ...]:
    """What a header says of the process."""
    numbers = ((name, str(getattr(about, name))) for name in ("time", "pid", "uid", "gid", "signal"))
    return (("uuid", str(UUID(bytes=about.uuid))), *numbers, ("program", about.program), ("host", about.host))


def key_file_vectors() -> dict[str, VectorFile]:
    """Dump key files."""
    good = dump.encode_key_file(TIME, KEY)
    content = good[:-32]
    cases = {
        "magic-wrong": ("corrupt", "the magic of a dump", native.summed(dump.DUMP + content[8:])),
        "version-2": ("unsupported", "version 2", native.summed(content[:8] + b"\x02" + content[9:])),
        "reserved": ("corrupt", "reserved byte 12 is 1", native.summed(content[:12] + b"\x01" + content[13:])),
        "checksum-wrong": ("corrupt", "one bit of the public half flipped", flipped(good, 50)),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "short-summed": ("corrupt", "a byte of the key id is missing, and the checksum fits", native.summed(content[:-1])),
        "long": ("corrupt", "a byte follows the key record", native.summed(content + b"\0")),
        "provider-bad": ("corrupt", "a provider's name with a slash",
                         dump.encode_key_file(TIME, dataclasses.replace(KEY, provider="a/b"))),
        "key-id-empty": ("corrupt", "a key id of no bytes", dump.encode_key_file(TIME, dataclasses.replace(KEY, key_id=""))),
    }
    made = {name: VectorFile((("expect", expect), ("what", "key-file"), ("why", why)), (data,))
            for name, (expect, why, data) in cases.items()}
    fields = (("expect", "ok"), ("what", "key-file"), ("why", "a dump key file"), ("made", str(TIME)), *key_fields(KEY))
    return {f"key-file-{name}": vector for name, vector in {**made, "good": VectorFile(fields, (good,))}.items()}


def dump_vector(why: str, header: bytes, pieces: bytes, expect: str = "ok", plain: bytes = b"", cut: str = "no",
                about: About = ABOUT, key: bytes = HOST_KEY) -> VectorFile:
    """A dump that is sealed to a dump key."""
    fields: tuple[tuple[str, str], ...] = (("expect", expect), ("what", "dump"), ("why", why), ("kek", key.hex()))
    if expect == "ok":
        fields += (("dek", DEK.hex()), ("cut", cut), *about_fields(about), *key_fields(KEY))
        return VectorFile(fields, (header + pieces, *([plain] if plain else [])))
    return VectorFile(fields, (header + pieces,))


def good_vectors() -> dict[str, VectorFile]:
    """Dumps that open."""
    named = dataclasses.replace(ABOUT, program="x" * 255, host="", pid=2**32 - 1, time=2**64 - 1)
    named_header = dump.header_for_host(named, KEY, EPHEMERAL, DEK)
    return {
        "dump-whole": dump_vector("data, zeros, a last piece", HEADER, seal_pieces(DEK, PLAIN), plain=PLAIN),
        "dump-empty": dump_vector("no byte", HEADER, seal_pieces(DEK, b"")),
        "dump-one-piece": dump_vector("zeros in a piece of data, and a last one that is empty", HEADER,
                                      seal_piece(DEK, 0, DATA, PIECE, bytes(PIECE)) + seal_piece(DEK, 1, LAST, 0, b""),
                                      plain=bytes(PIECE)),
        "dump-cut": dump_vector("its writer had to stop", HEADER, seal_pieces(DEK, SHORT, CUT), plain=SHORT, cut="yes"),
        "dump-names": dump_vector("the largest numbers and the longest name", named_header, seal_pieces(DEK, b"core"), plain=b"core",
                                  about=named),
    }


def bad_vectors() -> dict[str, VectorFile]:
    """Dumps with one defect."""
    one, two = (seal_piece(DEK, number, ZEROS, number + 1, b"") for number in range(2))
    end = seal_piece(DEK, 2, LAST, 3, b"end")
    good = seal_pieces(DEK, b"core")
    other = dump.make_key(KEY.uuid, EPHEMERAL, HOST_KEY, "corp", "4711")
    mixed = dataclasses.replace(KEY, wrapped=other.wrapped)
    lock_at = len(dump.before_lock(ABOUT))
    cases: dict[str, tuple[str, str, bytes, bytes]] = {
        "magic-wrong": ("corrupt", "the magic of a dump key file", dump.KEY_FILE + HEADER[8:], good),
        "version-2": ("unsupported", "version 2", HEADER[:8] + b"\x02" + HEADER[9:], good),
        "reserved": ("corrupt", "reserved byte 15 is 1", HEADER[:15] + b"\x01" + HEADER[16:], good),
        "lock-3": ("corrupt", "lock 3", HEADER[:lock_at] + b"\x03" + HEADER[lock_at + 1:], good),
        "header-short": ("corrupt", "the header is cut off", HEADER[:-1], b""),
        "pid-changed": ("key-rejected", "another process id", flipped(HEADER, 40), good),
        "key-uuid-changed": ("key-rejected", "another UUID of the dump key", flipped(HEADER, lock_at + 1), good),
        "check-changed": ("key-rejected", "another key check", flipped(HEADER, lock_at + 1 + 16 + 65), good),
        "sealed-changed": ("key-rejected", "one bit of the sealed DEK flipped", flipped(HEADER, len(HEADER) - 20), good),
        "halves": ("corrupt", "the private half of another pair", dump.header_for_host(ABOUT, mixed, EPHEMERAL, DEK), good),
        "no-end": ("corrupt", "the last piece is missing", HEADER, one + two),
        "nothing": ("corrupt", "no piece", HEADER, b""),
        "cut-in-head": ("corrupt", "the head of the last piece is cut off", HEADER, (one + two + end)[:2 * len(one) + 7]),
        "cut-in-piece": ("corrupt", "the last byte of the last tag is missing", HEADER, (one + two + end)[:-1]),
        "exchanged": ("corrupt", "two pieces exchanged", HEADER, two + one + end),
        "left-out": ("corrupt", "a piece left out", HEADER, one + end),
        "repeated": ("corrupt", "a piece twice", HEADER, one + one + end),
        "after-end": ("corrupt", "a byte after the last piece", HEADER, good + b"\0"),
        "piece-after-end": ("corrupt", "a piece after the last one", HEADER, good + seal_piece(DEK, 1, LAST, 0, b"")),
        "kind-changed": ("corrupt", "a last piece that says it is cut", HEADER, b"\x04" + good[1:]),
        "kind-0": ("corrupt", "a piece of kind 0", HEADER, b"\0" + good[1:]),
        "kind-5": ("corrupt", "a piece of kind 5", HEADER, seal_piece(DEK, 0, 5, 0, b"")),
        "piece-reserved": ("corrupt", "reserved byte 1 of a head is 1", HEADER, good[:1] + b"\x01" + good[2:]),
        "data-short": ("corrupt", "a piece of data of four bytes", HEADER, seal_piece(DEK, 0, DATA, 4, b"core")),
        "last-long": ("corrupt", "a last piece of a whole piece's length", HEADER, seal_piece(DEK, 0, LAST, PIECE, b"core")),
        "zeros-none": ("corrupt", "no zeros", HEADER, seal_piece(DEK, 0, ZEROS, 0, b"") + seal_piece(DEK, 1, LAST, 0, b"")),
        "zeros-more": ("corrupt", "more zeros than were sealed", HEADER,
                       seal_piece(DEK, 0, ZEROS, 1, b"").replace(b"\x02\0\0\0\x01", b"\x02\0\0\0\x02", 1) + seal_piece(DEK, 1, LAST, 0, b"")),
        "ciphertext-changed": ("corrupt", "one bit of a piece flipped", HEADER, flipped(good, 9)),
        "of-another": ("corrupt", "pieces of another dump", HEADER, seal_pieces(derive("another dump dek", 32), b"core")),
    }
    made = {f"dump-{name}": dump_vector(why, header, pieces, expect) for name, (expect, why, header, pieces) in cases.items()}
    wrong = dump_vector("another host key", HEADER, good, "key-rejected", key=derive("another host key", 32))
    return {**made, "dump-kek-wrong": wrong}


def passphrase_vectors() -> dict[str, VectorFile]:
    """Dumps that are sealed under a passphrase."""
    header = dump.header_for_passphrase(ABOUT, PASSPHRASE, COST, SALT, NONCE, DEK)
    pieces = seal_pieces(DEK, b"core")
    cost_at = len(dump.before_lock(ABOUT)) + 1
    dear = {
        "memory": header[:cost_at] + (4194305).to_bytes(4, "little") + header[cost_at + 4:],
        "passes": header[:cost_at + 4] + (65).to_bytes(4, "little") + header[cost_at + 8:],
        "lanes": header[:cost_at + 8] + (17).to_bytes(4, "little") + header[cost_at + 12:],
    }

    def vector(expect: str, why: str, head: bytes, passphrase: str = PASSPHRASE) -> VectorFile:
        fields = (("expect", expect), ("what", "passphrase"), ("why", why), ("passphrase", passphrase))
        return VectorFile(fields, (head + pieces,))

    made = {
        "wrong": vector("key-rejected", "another passphrase", header, "another one"),
        "pid-changed": vector("key-rejected", "another process id", flipped(header, 40)),
        **{f"cost-{name}": vector("corrupt", f"too much {name}", head) for name, head in dear.items()},
    }
    fields = (("expect", "ok"), ("what", "passphrase"), ("why", "a dump under a passphrase"), ("passphrase", PASSPHRASE),
              ("dek", DEK.hex()), ("cut", "no"), *about_fields(ABOUT))
    return {f"{PASSPHRASE_PREFIX}{name}": one for name, one in {**made, "good": VectorFile(fields, (header + pieces, b"core"))}.items()}
