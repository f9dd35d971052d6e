"""Golden components under tests/stores: whole backing files, made once for each version and kept for ever."""

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from . import component, disk, dump, dump_cases, home_file, keys, manifest, manifest_cases, native, transition
from .checks import KIND_BY_NAME, same
from .errors import FormatError
from .header import COPY_LEN, DEK_LEN, DISK, HOME, HOME_FILE, MIB, SECOND_COPY, Header, Slot, encode, new_slot
from .header_good import decoded_fields
from .vectorfile import VectorFile, derive, derive_uuid, parse

VERSION_FOLDER = "v1"
# What a store's file says beside its header's fields.
OWN_FIELDS = ("expect", "why", "kek", "primary_key", "kek_share", "plain_len", "sha256", "manifest")


@dataclass(frozen=True)
class Golden:
    """A component whose keys and content derive from its name."""

    name: str
    why: str
    kind: int = DISK
    sector_size: int = 4096
    data_offset: int = 8 * MIB
    label: str = ""
    disk_names: tuple[str, ...] = ()
    primary: native.PrimaryKey | None = None
    share: native.PrimaryKey | None = None
    manifest: bytes = b""

    @property
    def kek(self) -> bytes:
        """Its KEK."""
        return derive(f"store {self.name}: kek", 32)

    @property
    def dek(self) -> bytes:
        """Its DEK."""
        return derive(f"store {self.name}: dek", DEK_LEN[self.kind])

    def header(self) -> Header:
        """Its header at creation."""
        home = self.kind == HOME
        return Header(kind=self.kind, uuid=derive_uuid(f"store {self.name}"), sequence=1,
                      sector_size=self.sector_size, data_offset=0 if home else self.data_offset, label=self.label,
                      disk_names=self.disk_names, slots=(new_slot("local", f"key of {self.name}", self.kek, self.dek),))

    def file(self, first: bytes, second: bytes, data: bytes = b"") -> bytes:
        """The backing file with these copies, and this behind data_offset."""
        front = first.ljust(SECOND_COPY[self.kind], b"\0") + second
        return front if self.kind == HOME else front.ljust(self.data_offset, b"\0") + data

    def encrypted(self, plaintext: bytes) -> bytes:
        """What stands behind data_offset for this plaintext; units of zeros are holes."""
        return disk.write_range(self.dek, self.sector_size, 0, plaintext) + disk.tail(len(plaintext))

    def noise(self, length: int) -> bytes:
        """Plaintext of its own."""
        return derive(f"store {self.name}: plaintext", length)

    def disk(self, plaintext: bytes, header: Header | None = None) -> tuple["Golden", Header, bytes, bytes]:
        """A disk with two equal copies."""
        used = header or self.header()
        copy = encode(used, self.dek)
        return self, used, self.file(copy, copy, self.encrypted(plaintext)), plaintext


def stores() -> dict[str, VectorFile]:
    """File name to store."""
    made = [whole(), small_sectors(), empty(), grown(), updated(), one_copy(), of_native(), home(), updated_home(),
            in_transition(4096), in_transition(512), tidying(), home_in_transition(), home_of_state(2), home_of_state(4),
            owned(), home_with_bound_disks(), home_with_list(), of_native_with_share(), home_with_manifest(1), home_with_manifest(2)]
    return {**{golden.name: store_file(golden, *rest) for golden, *rest in made}, "dump": dump_store()}


def store_file(golden: Golden, header: Header, backing: bytes, plaintext: bytes) -> VectorFile:
    """The text of one store."""
    fields = [("expect", "ok"), ("why", golden.why), ("kek", golden.kek.hex())]
    if golden.primary is not None:
        fields.append(("primary_key", native.encode_primary(golden.primary).hex()))
    if golden.share is not None:
        fields.append(("kek_share", native.encode_share(golden.share).hex()))
    fields += decoded_fields(header)
    if golden.kind == DISK:
        fields += [("plain_len", str(len(plaintext))), ("sha256", hashlib.sha256(plaintext).hexdigest())]
    if golden.manifest:
        fields.append(("manifest", hashlib.sha256(golden.manifest).hexdigest()))
        return VectorFile(tuple(fields), (backing, manifest_cases.sealed(golden.manifest, golden.dek)))
    return VectorFile(tuple(fields), (backing,))


def dump_store() -> VectorFile:
    """An encrypted dump, which is not a component."""
    kek, dek = (derive(f"store dump: {name}", 32) for name in ("host key", "dek"))
    key = dump.make_key(derive_uuid("store dump: key"), dump_cases.PAIR, kek, "corp", "17")
    about = replace(dump_cases.ABOUT, uuid=derive_uuid("store dump"))
    header = dump.header_for_host(about, key, dump_cases.EPHEMERAL, dek)
    plain = bytes(3 * dump.PIECE) + derive("store dump: plaintext", 1000)
    fields = (("expect", "ok"), ("why", "a dump of QEMU"), ("kek", kek.hex()), ("kind", "dump"), *dump_cases.about_fields(about),
              ("plain_len", str(len(plain))), ("sha256", hashlib.sha256(plain).hexdigest()))
    return VectorFile(fields, (header + dump.seal_pieces(dek, plain),))


def read_dump(store: VectorFile) -> None:
    """Open a dump and compare all it says."""
    data = store.bodies[0]
    about, lock, sealed_at, pieces_at = dump.decode_header(data)
    plain, cut = dump.open_pieces(dump.open_dek(data, lock, sealed_at, store.bytes("kek")), data[pieces_at:])
    want = [field for field in store.fields if field[0] not in (*OWN_FIELDS, "kind")]
    same((list(dump_cases.about_fields(about)), cut), (want, False), "fields")
    same((len(plain), hashlib.sha256(plain).hexdigest()), (store.int("plain_len"), store.get("sha256")), "plaintext")


Made = tuple[Golden, Header, bytes, bytes]


def whole() -> Made:
    """Data, holes of units and of sectors, and an end within a block."""
    golden = Golden("disk-4096", "4096-byte sectors, holes, and a last block that is not full", label="root disk")
    data = golden.noise(6000)
    return golden.disk(data[:4096] + bytes(4096) + data[4096:5120] + bytes(1024) + data[5120:])


def small_sectors() -> Made:
    """512-byte sectors."""
    golden = Golden("disk-512", "512-byte sectors, and a last unit that is not full", sector_size=512)
    return golden.disk(golden.noise(1536) + bytes(512) + golden.noise(1136)[624:])


def empty() -> Made:
    """No data at all."""
    golden = Golden("disk-hole", "a disk of 1 MiB that was never written")
    header = golden.header()
    copy = encode(header, golden.dek)
    return golden, header, golden.file(copy, copy, bytes(MIB)), bytes(MIB)


def grown() -> Made:
    """A hole behind ciphertext in one unit."""
    golden = Golden("disk-grown", "grown from 100 to 3000 bytes, then written at its end", data_offset=9 * MIB)
    header = golden.header()
    copy = encode(header, golden.dek)
    start, end = golden.noise(100), golden.noise(540)[100:]
    first = disk.encrypt_range(golden.dek, 4096, 0, start.ljust(112, b"\0"))
    last = disk.encrypt_range(golden.dek, 4096, 2560, end.ljust(448, b"\0"))
    plaintext = start.ljust(2560, b"\0") + end
    return golden, header, golden.file(copy, copy, first.ljust(2560, b"\0") + last + disk.tail(3000)), plaintext


def updated() -> Made:
    """Two updates: the first copy is the newest."""
    golden = Golden("disk-updated", "four slots and a label, after two updates", label="Platte Ä 磁盘")
    others = tuple(new_slot(f"provider-{n}", f"key {n}", derive(f"store: other kek {n}", 32), golden.dek)
                   for n in range(1, 4))
    newest = golden.header()
    newest = replace(newest, sequence=3, slots=(*others, *newest.slots))
    older = replace(golden.header(), sequence=2, label="before")
    plaintext = golden.noise(700)
    file = golden.file(encode(newest, golden.dek), encode(older, golden.dek), golden.encrypted(plaintext))
    return golden, newest, file, plaintext


def one_copy() -> Made:
    """A disk whose beginning was overwritten."""
    golden = Golden("disk-first-copy-lost", "the first copy was overwritten with zeros")
    header = replace(golden.header(), sequence=2)
    plaintext = golden.noise(512)
    file = golden.file(bytes(COPY_LEN), encode(header, golden.dek), golden.encrypted(plaintext))
    return golden, header, file, plaintext


def of_native() -> Made:
    """A disk whose key id is of the native provider."""
    primary = native.PrimaryKey(derive_uuid("store: primary key"), derive("store: primary key", 32))
    golden = Golden("disk-native", "its KEK is wrapped in its key id, by a primary key of the native provider",
                    primary=primary)
    slot = new_slot("local", native.make_key_id(primary, golden.kek), golden.kek, golden.dek)
    return golden.disk(golden.noise(1000), replace(golden.header(), slots=(slot,)))


def home() -> Made:
    """A home as it is created."""
    golden = Golden("home", "a home", kind=HOME)
    copy = encode(golden.header(), golden.dek)
    return golden, golden.header(), golden.file(copy, copy), b""


def updated_home() -> Made:
    """A home whose second copy is the newer one."""
    golden = Golden("home-updated", "patterns of its own, after one update", kind=HOME, label="web01",
                    disk_names=("*.dsk", "disk-##"))
    newer = replace(golden.header(), sequence=2)
    file = golden.file(encode(replace(golden.header(), label="", disk_names=()), golden.dek), encode(newer, golden.dek))
    return golden, newer, file, b""


def in_transition(sector_size: int) -> Made:
    """A disk whose deep rekey was interrupted in the midst of a chunk; two places of the journal are damaged."""
    golden = Golden(f"disk-in-transition-{sector_size}", "a deep rekey was interrupted in the midst of its second chunk",
                    sector_size=sector_size)
    old = derive(f"store {golden.name}: old dek", 64)
    parts = transition.new_transition(derive(f"store {golden.name}: transition", 16), old, golden.dek)
    header = replace(golden.header(), sequence=5, transition=parts)
    noise = golden.noise(21000)
    plaintext = noise[:4096] + bytes(512) + noise[4608:9000] + bytes(1752) + noise[10752:]
    before = disk.write_range(old, sector_size, 0, plaintext)
    after = disk.write_range(golden.dek, sector_size, 0, plaintext)
    cursor, units = 8192, 16
    table = tuple(after[at:at + 8] for at in range(cursor, cursor + units * disk.UNIT, disk.UNIT))
    mixed = b"".join((after if unit % 3 else before)[cursor + unit * disk.UNIT:][:disk.UNIT] for unit in range(units))
    data = after[:cursor] + mixed + before[cursor + len(mixed):] + disk.tail(len(plaintext))
    key = transition.journal_key(parts.id, golden.dek)
    record = transition.Record(header.uuid, parts.id, 4, cursor, table)
    newest, older = transition.encode(record, key), transition.encode(replace(record, sequence=3, table=()), key)
    file = bytearray(golden.file(encode(header, golden.dek), encode(replace(header, sequence=4), golden.dek), data))
    torn = older[:100].ljust(len(older), b"\0")
    for place, content in zip(transition.PLACES, (torn, older, newest, torn), strict=True):
        file[place:place + len(content)] = content
    return golden, header, bytes(file), plaintext


def tidying() -> Made:
    """A disk that is all under its new DEK, but says still that it is in transition."""
    golden = Golden("disk-tidying", "a deep rekey that was interrupted when nothing was left under the old DEK")
    header = replace(golden.header(), sequence=9, transition=transition.Transition(derive("store: tidying", 16), b""))
    return golden.disk(golden.noise(5000), header)


def home_in_transition() -> Made:
    """A home in the midst of a deep rekey."""
    golden = Golden("home-in-transition", "a home in the midst of a deep rekey", kind=HOME)
    parts = transition.new_transition(derive("store: home transition", 16), derive("store: old home dek", 32), golden.dek)
    header = replace(golden.header(), sequence=3, transition=parts)
    copy = encode(header, golden.dek)
    return golden, header, golden.file(encode(replace(header, sequence=2), golden.dek), copy), b""


def home_of_state(state: int) -> Made:
    """A home whose header says how much of its files is sealed."""
    name = {2: "home-encrypted", 4: "home-converting-disks"}[state]
    golden = Golden(name, f"a home of state {state}, after the update that made it so", kind=HOME, label="web01")
    header = replace(golden.header(), sequence=3, state=state)
    copy = encode(header, golden.dek)
    return golden, header, golden.file(encode(replace(header, sequence=2), golden.dek), copy), b""


def owned() -> Made:
    """A disk that names its home."""
    golden = Golden("disk-of-a-home", "it names its home")
    return golden.disk(golden.noise(5000), replace(golden.header(), owner=derive_uuid("store home-with-bound-disks")))


def home_with_bound_disks() -> Made:
    """A home without a list of its disks."""
    golden = Golden("home-with-bound-disks", "a home all of whose disks name it", kind=HOME)
    header = replace(golden.header(), state=2, binds_disks=True)
    copy = encode(header, golden.dek)
    return golden, header, golden.file(copy, copy), b""


def home_with_list() -> Made:
    """A home as it is made now."""
    golden = Golden("home-with-list", "a home that has a list of its disks", kind=HOME)
    header = replace(golden.header(), state=2, binds_disks=True, lists_disks=True)
    copy = encode(header, golden.dek)
    return golden, header, golden.file(copy, copy), b""


def of_native_with_share() -> Made:
    """A disk whose KEK is made of a key of the native provider and a share."""
    primary = native.PrimaryKey(derive_uuid("store: primary key with a share"), derive("store: primary key with a share", 32))
    share = native.PrimaryKey(derive_uuid("store: share"), derive("store: share", 32))
    golden = Golden("disk-native-share", "its KEK is made of what its key id wraps and of a share", primary=primary, share=share)
    slot = Slot("local", native.make_key_id(primary, golden.kek), keys.shared_key_check(golden.kek, share.key),
                keys.wrap(keys.shared_kek(golden.kek, share.key), golden.dek))
    return golden.disk(golden.noise(1000), replace(golden.header(), slots=(slot,)))


def home_with_manifest(version: int) -> Made:
    """A home with a list of its disks and a manifest, which is a file of its own."""
    golden = (Golden("home-with-manifest", "a home that has a manifest, the second file", kind=HOME) if version == 1 else
              Golden(f"home-with-manifest-{version}", f"the same with a manifest of version {version}", kind=HOME))
    header = replace(golden.header(), state=2, binds_disks=True, lists_disks=True)
    made = replace(manifest_cases.WHOLE, uuid=UUID(bytes=header.uuid), version=version)
    golden = replace(golden, manifest=manifest.encode(made))
    copy = encode(header, golden.dek)
    return golden, header, golden.file(copy, copy), b""


def write_missing(root: Path) -> list[str]:
    """Write the stores of the current version that are not there; those that are stay as they are."""
    folder = root / VERSION_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    paths = {folder / f"{name}.txt": store for name, store in stores().items()}
    missing = {path: store for path, store in paths.items() if not path.exists()}
    for path, store in missing.items():
        path.write_text(store.render(), encoding="utf-8")
    return sorted(path.name for path in missing)


def committed(root: Path) -> list[Path]:
    """The stores that are there, of all versions."""
    return sorted(root.glob("v*/*.txt"))


def failures(root: Path) -> list[str]:
    """What does not open to what it says of itself."""
    found = [f"{root / VERSION_FOLDER / name}.txt: missing" for name in stores()
             if not (root / VERSION_FOLDER / f"{name}.txt").is_file()]
    for path in committed(root):
        try:
            read_store(parse(path.read_text(encoding="utf-8")))
        except (AssertionError, ValueError, FormatError) as failure:
            found.append(f"{path}: {failure}")
    return found


def read_store(store: VectorFile) -> None:
    """Unlock a store and compare all it says."""
    if store.get("kind") == "dump":
        read_dump(store)
        return
    kind = KIND_BY_NAME[store.get("kind")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (HOME_FILE if kind == HOME else "disk")
        path.write_bytes(store.bodies[0])
        with path.open("rb") as file:
            found = component.read_component(file)
            shares = [native.decode_share(bytes.fromhex(share)).key for share in store.all("kek_share")]
            share = shares[0] if shares else b""
            dek = component.unlock(found.copy, found.header, store.bytes("kek"), share)
            want = [field for field in store.fields if field[0] not in OWN_FIELDS]
            same(decoded_fields(found.header), want, "fields")
            for primary in store.all("primary_key"):
                kek = native.open_key_id(native.decode_primary(bytes.fromhex(primary)), found.header.slots[0].key_id)
                same(kek, store.bytes("kek"), "KEK in the key id")
            if kind == DISK:
                plain_len, digest = component.decrypt_disk(file, found, store.bytes("kek"), None, share)
                same(plain_len, store.int("plain_len"), "plaintext length")
                same(digest, store.get("sha256"), "SHA-256 of the plaintext")
            for digest in store.all("manifest"):
                read_manifest(store.bodies[1], dek, found.header, digest)


def read_manifest(backing: bytes, dek: bytes, of: Header, digest: str) -> None:
    """Open a home's manifest."""
    header, blocks = home_file.read_file(lambda at, length: backing[at:at + length], len(backing), dek)
    same(header and header.keys.file_id, manifest.FILE_ID, "file id")
    plaintext = b"".join(blocks)
    same(hashlib.sha256(plaintext).hexdigest(), digest, "SHA-256 of the manifest")
    same(manifest.decode(plaintext).uuid.bytes, of.uuid, "home of the manifest")
