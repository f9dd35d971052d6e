"""Reads a vector file with the decoders of this package and demands what it expects."""

from collections.abc import Callable
from uuid import UUID

from . import (
    cluster,
    cluster_cases,
    disk,
    dump,
    dump_cases,
    erasure,
    header,
    home_file,
    hpke,
    kept,
    manifest,
    members,
    members_cases,
    native,
    push,
    saved,
    transition,
)
from .errors import FormatError, KeyRejected
from .header_good import decoded_fields
from .keys import key_check, shared_kek, shared_key_check, unwrap_dek
from .vectorfile import VectorFile

KIND_BY_NAME = {name: kind for kind, name in header.KIND_NAMES.items()}


def expecting(read: Callable[[VectorFile], None]) -> Callable[[VectorFile], None]:
    """A check: `read` must end as `expect:` says."""
    def check(vector: VectorFile) -> None:
        try:
            read(vector)
        except FormatError as refusal:
            same(refusal.kind, vector.get("expect"), f"class of refusal ({refusal})")
        else:
            same("ok", vector.get("expect"), "class")
    return check


def same(got: object, want: object, what: str) -> None:
    """Fail unless equal; not `assert`, which -O removes."""
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, the file wants {want!r}")


def read_header(vector: VectorFile) -> None:
    """A file of header/."""
    copy = vector.bodies[0]
    stage = "decode"
    try:
        decoded = header.decode(copy)
        stage = "unlock"
        dek = header.unlock(copy, decoded, vector.bytes("kek"))
        if decoded.transition:
            transition.old_dek(decoded.transition, dek)
    except FormatError:
        same(stage, vector.get("at", "nowhere"), "stage of refusal")
        raise
    same(dek, vector.bytes("dek"), "dek")
    want = [field for field in vector.fields if field[0] not in ("expect", "why", "kek", "dek")]
    same(decoded_fields(decoded), want, "fields")
    same(header.encode(decoded, dek), copy, "encoding of what was decoded")


def read_pair(vector: VectorFile) -> None:
    """A file of pair/."""
    first, second = vector.bodies
    copy, chosen = header.choose(KIND_BY_NAME[vector.get("kind")], first, second)
    used = "either" if first == second else "first" if copy == first else "second"
    same(used, vector.get("use"), "use")
    same(chosen.sequence, vector.int("sequence"), "sequence")


def read_saved(vector: VectorFile) -> None:
    """A file of saved/."""
    found = saved.decode_saved(vector.bodies[0])
    same(found.time, vector.int("time"), "time")
    want = [field for field in vector.fields if field[0] not in ("expect", "why", "time")]
    same(decoded_fields(found.header), want, "fields")
    same(saved.encode(found.time, found.copy), vector.bodies[0], "encoding of what was decoded")


def read_erasure(vector: VectorFile) -> None:
    """A file of erasure/."""
    mark = vector.bodies[0]
    found = erasure.decode(mark)
    same(header.KIND_NAMES[found.kind], vector.get("kind"), "kind")
    same(str(UUID(bytes=found.uuid)), vector.get("uuid"), "uuid")
    same(found.time, vector.int("time"), "time")
    same(erasure.encode(found), mark[:erasure.MARK_LEN], "encoding of what was decoded")


def read_wrap(vector: VectorFile) -> None:
    """A file of wrap/."""
    kek, check = vector.bytes("kek"), key_check(vector.bytes("kek"))
    if vector.get("share", ""):
        share = vector.bytes("share")
        kek, check = shared_kek(kek, share), shared_key_check(kek, share)
    if check != vector.bytes("check"):
        raise KeyRejected("the key check differs")
    dek = unwrap_dek(kek, vector.bodies[0], header.DEK_LEN[KIND_BY_NAME[vector.get("kind")]])
    same(dek, vector.bytes("dek"), "dek")


def read_sectors(vector: VectorFile) -> None:
    """A file of sectors/."""
    plaintext, ciphertext = vector.bodies
    dek, sector_size, offset = vector.bytes("dek"), vector.int("sector_size"), vector.int("offset")
    plain_len = vector.int("plain_len")
    same(offset // sector_size, vector.int("first_sector"), "first sector")
    end_of_blocks = disk.padded_len(plain_len) - offset
    blocks, behind = ciphertext[:end_of_blocks], ciphertext[end_of_blocks:]
    if offset % disk.UNIT == 0:
        same(disk.read_range(dek, sector_size, offset, blocks)[:len(plaintext)], plaintext, "plaintext")
    if vector.get("direction") == "both":
        if offset + len(plaintext) == plain_len:
            same(behind, disk.tail(plain_len), "the mark behind the last block")
        padded = plaintext.ljust(disk.padded_len(len(plaintext)), b"\0")
        same(disk.encrypt_range(dek, sector_size, offset, padded), blocks, "ciphertext")
        same(disk.decrypt_range(dek, sector_size, offset, blocks), padded, "padded plaintext")


def read_length(vector: VectorFile) -> None:
    """A file of length/."""
    for plain_len, beyond in (map(int, row.split()) for row in vector.all("length")):
        same(disk.file_len(plain_len), beyond, f"file length of {plain_len}")
        same(disk.plain_len(beyond), plain_len, f"plaintext length of {beyond}")
    for beyond, plain_len in (map(int, row.split()) for row in vector.all("read")):
        same(disk.plain_len(beyond), plain_len, f"plaintext length of {beyond}")


def read_journal(vector: VectorFile) -> None:
    """A file of journal/."""
    id_ = vector.bytes("id")
    key = transition.journal_key(id_, vector.bytes("dek"))
    record = transition.decode(vector.bodies[0], key, vector.bytes("uuid"), id_)
    same(str(record.sequence), vector.get("sequence"), "sequence")
    same(str(record.cursor), vector.get("cursor"), "cursor")
    same([mark.hex() for mark in record.table], list(vector.all("mark")), "table")
    same(transition.encode(record, key), vector.bodies[0], "encoding of what was decoded")


def read_members(vector: VectorFile) -> None:
    """A file of members/."""
    home = vector.bytes("uuid")
    key = members.members_key(home, vector.bytes("dek"))
    found = members.decode(vector.bodies[0], home, key)
    same(str(found.sequence), vector.get("sequence"), "sequence")
    same([line for _, line in members_cases.described(found)], list(vector.all("disk")), "disks")
    same(members.encode(found, key), vector.bodies[0], "encoding of what was decoded")


def read_home_file(vector: VectorFile) -> None:
    """A file of home-file/."""
    backing = vector.bodies[0]
    try:
        _, blocks = home_file.read_file(lambda at, length: backing[at:at + length], len(backing), vector.bytes("dek"))
        plain = b"".join(blocks)
    except FormatError as refusal:
        stage = f"block {refusal.block}" if isinstance(refusal, home_file.DamagedBlock) else "open"
        same(stage, vector.get("at", "nowhere"), "stage of refusal")
        raise
    same(len(plain), vector.int("plain_len"), "plaintext length")
    same(plain, b"".join(vector.bodies[1:]), "plaintext")
    if plain:
        same(home_file.cipher_len(len(plain)), len(backing), "backing length")


def read_home_value(vector: VectorFile) -> None:
    """A file of home-value/."""
    dek = vector.bytes("dek")
    if vector.get("what") == "target":
        same(home_file.open_target(dek, vector.get("text")), vector.get("target", "").encode(), "target")
        return
    file_id = vector.get("file_id", "")
    bound = home_file.xattr_bound(bytes.fromhex(file_id) if file_id else None, vector.get("name").encode())
    same(home_file.open_value(dek, bound, vector.bodies[0]).hex(), vector.get("value", ""), "value")


def read_manifest(vector: VectorFile) -> None:
    """A file of manifest/."""
    what, data = vector.get("what"), vector.bodies[0]
    if what == "state":
        found = home_file.decode_header(data[:home_file.HEADER_LEN], vector.bytes("dek"))
        same(found and found.keys.file_id.hex(), vector.get("id"), "file id")
        for version, name in ((1, "state_1"), (2, "state")):
            same(manifest.file_state(data, vector.bytes("dek"), version).hex(), vector.get(name), name)
        return
    if what == "file":
        found, blocks = home_file.read_file(lambda at, length: data[at:at + length], len(data), vector.bytes("dek"))
        same(found and found.keys.file_id, manifest.FILE_ID, "file id")
        data = b"".join(blocks)
    decoded = manifest.decode(data)
    same(manifest.encode(decoded), data, "encoded again")
    want = [field for field in vector.fields if field[0] not in ("expect", "why", "what", "dek")]
    same(manifest.fields(decoded), want, "fields")


def read_native(vector: VectorFile) -> None:
    """A file of native/."""
    what, data = vector.get("what"), vector.bodies[0]
    if what == "key-id":
        kek = native.open_key_id(native.decode_primary(data), vector.get("key_id"))
        same(kek, vector.bytes("kek"), "kek")
        return
    if what == "sealed-share":
        share = native.decode_sealed_share(data)
        found = [str(UUID(bytes=share.uuid)), share.root.hex(), str(share.pcrs), share.private.hex(), share.public.hex()]
        same(found, [vector.get(name) for name in ("uuid", "root", "pcrs", "private", "public")], "fields")
        same(native.encode_sealed_share(share), data, "encoding of what was decoded")
        return
    if what == "backup":
        backup, primary = native.open_backup(data, vector.get("passphrase"))
        same(backup.provider, vector.get("provider"), "provider")
        same(backup.cost.memory_kib, vector.int("memory_kib"), "memory")
    else:
        primary = native.decode_primary(data)
    same(str(UUID(bytes=primary.uuid)), vector.get("uuid"), "uuid")
    same(primary.key, vector.bytes("key"), "key")


def read_cluster(vector: VectorFile) -> None:
    """A file of cluster/."""
    what = vector.get("what")
    {"document": read_document, "envelope": read_envelope, "join": read_join, "ack": read_ack, "token": read_token,
     "admin-key": read_admin_key, "identity": read_identity, "want": read_want, "kek": read_kek,
     "kept": read_kept}[what](vector)


def read_document(vector: VectorFile) -> None:
    """A document."""
    found, digest = cluster.decode_document(vector.bodies[0])
    want = [field for field in vector.fields if field[0] not in ("expect", "what", "why", "seed")]
    same(cluster_cases.document_fields(found, digest), want, "fields")
    same(cluster.sign(found, [bytes.fromhex(seed) for seed in vector.all("seed")]), vector.bodies[0], "encoding")


def read_envelope(vector: VectorFile) -> None:
    """An envelope."""
    cluster_uuid, primary, host = (UUID(vector.get(name)).bytes for name in ("cluster", "primary", "host"))
    private = hpke.private_of(int.from_bytes(vector.bytes("private"), "big"))
    same(hpke.public_bytes(private), vector.bytes("public"), "public key")
    aad = cluster.envelope_aad(cluster_uuid, primary, host, vector.get("provider"))
    key = cluster.open_envelope(vector.bodies[0], private, aad)
    same(key, vector.bytes("key"), "key")
    same(cluster.primary_check(key, cluster_uuid, primary), vector.bytes("check"), "check")


def read_join(vector: VectorFile) -> None:
    """A join request."""
    cluster_uuid, token, end = UUID(vector.get("cluster")).bytes, vector.bytes("token"), vector.int("end")
    secret = cluster.token_secret(vector.bytes("seed"), cluster_uuid, token, end)
    same(secret, vector.bytes("secret"), "secret")
    found = cluster.decode_join(vector.bodies[0], secret)
    same(found[:3], (cluster_uuid, token, end), "fields")
    same(cluster_cases.host_text(found[3]), vector.get("asks"), "host")


def read_ack(vector: VectorFile) -> None:
    """An acknowledgement."""
    host, _, _, sign_key = vector.get("by").split(" ")
    found = cluster.decode_ack(vector.bodies[0], UUID(vector.get("cluster")).bytes, UUID(host).bytes, bytes.fromhex(sign_key))
    want = (vector.int("epoch"), vector.bytes("document"), vector.int("time"))
    same((found.epoch, found.document, found.time), want, "fields")
    for name, uuids in (("holds", found.holds), ("makes", found.makes)):
        same([str(UUID(bytes=uuid)) for uuid in uuids], vector.all(name), name)


def read_want(vector: VectorFile) -> None:
    """What a host wants of a pushed provider."""
    host, _, _, sign_key = vector.get("by").split(" ")
    place = (UUID(vector.get("cluster")).bytes, UUID(host).bytes, vector.get("provider"))
    found = push.decode_want(vector.bodies[0], *place, bytes.fromhex(sign_key))
    key, new = vector.get("key").split(" "), vector.get("new").split(" ")
    want = [(bytes.fromhex(key[0]), key[1].encode()), (bytes.fromhex(new[0]), UUID(new[1]).bytes, new[2].encode())]
    same(found, want, "wishes")
    wishes = [push.wish_of(want[0][0], key[1]), push.wish_new(want[1][0], UUID(new[1]).bytes, new[2])]
    same(push.encode_want(*place, wishes, vector.bytes("seed")), vector.bodies[0], "encoding")


def read_kek(vector: VectorFile) -> None:
    """A KEK that was pushed, or a refusal."""
    keeper, _, _, sign_key = vector.get("by").split(" ")
    private = hpke.private_of(int.from_bytes(vector.bytes("private"), "big"))
    same(hpke.public_bytes(private), vector.bytes("public"), "public key")
    outcome, found = push.decode_kek(vector.bodies[0], {UUID(keeper).bytes: bytes.fromhex(sign_key)}, private)
    want = vector.bytes("kek") if outcome in (1, 2) else vector.get("refused").encode()
    same((outcome, found), (vector.int("outcome"), want), "outcome")


def read_kept(vector: VectorFile) -> None:
    """KEKs that a host keeps."""
    cluster_uuid, host, sealed_key, keks = kept.decode(vector.bodies[0], vector.bytes("key"))
    same((cluster_uuid, host), (UUID(vector.get("cluster")).bytes, UUID(vector.get("host")).bytes), "place")
    same(sealed_key, vector.bytes("sealed_key"), "sealed key")
    rows = [f"{UUID(bytes=one.provider)} {one.name} {one.flag} {one.begun} {one.kek.hex()} {one.key_id}" for one in keks]
    same(rows, vector.all("kept"), "KEKs")


def read_token(vector: VectorFile) -> None:
    """A token."""
    values = (UUID(vector.get("cluster")).bytes, vector.int("epoch"), vector.bytes("document"), vector.bytes("token"),
              vector.int("end"), vector.bytes("secret"), vector.get("board"))
    same(cluster.token_text(*values), vector.get("text"), "text")


def read_admin_key(vector: VectorFile) -> None:
    """An admin key file."""
    seed = cluster.decode_admin_key(vector.bodies[0], vector.get("passphrase"))
    same((seed, cluster.public(seed)), (vector.bytes("seed"), vector.bytes("public")), "key")


def read_identity(vector: VectorFile) -> None:
    """A host's identity."""
    found = cluster.decode_identity(vector.bodies[0])
    want = (UUID(vector.get("uuid")).bytes, *(vector.bytes(name) for name in ("private", "public", "seed")))
    same(found, want, "fields")


def read_dump(vector: VectorFile) -> None:
    """A file of dump/."""
    what, data = vector.get("what"), vector.bodies[0]
    outer = ("expect", "what", "why", "kek", "passphrase", "dek", "cut")
    want = tuple(field for field in vector.fields if field[0] not in outer)
    if what == "key-file":
        made, key = dump.decode_key_file(data)
        same((("made", str(made)), *dump_cases.key_fields(key)), want, "fields")
        same(dump.encode_key_file(made, key), data, "encoding of what was decoded")
        return
    about, lock, sealed_at, pieces_at = dump.decode_header(data)
    secret = vector.bytes("kek") if what == "dump" else vector.get("passphrase")
    dek = dump.open_dek(data, lock, sealed_at, secret)
    plain, cut = dump.open_pieces(dek, data[pieces_at:])
    same((dek, plain), (vector.bytes("dek"), b"".join(vector.bodies[1:])), "DEK and plaintext")
    same("yes" if cut else "no", vector.get("cut"), "cut")
    same((*dump_cases.about_fields(about), *(dump_cases.key_fields(lock.key) if lock.key else ())), want, "fields")
