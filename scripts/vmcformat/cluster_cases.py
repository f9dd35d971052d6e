"""Vectors of what hosts of a cluster share."""

import dataclasses
import hashlib
from uuid import UUID

from . import hpke, native
from .cluster import (
    Document,
    Generation,
    Host,
    Member,
    Provider,
    Pushed,
    admin_key_start,
    body,
    encode_ack,
    encode_admin_key,
    encode_identity,
    encode_join,
    envelope_aad,
    primary_check,
    public,
    seal_envelope,
    sign,
    token_secret,
    token_text,
)
from .header_bad import flipped
from .native_cases import OTHER_PRIMARY, PASSPHRASE, PRIMARY, resummed
from .vectorfile import VectorFile, derive, derive_uuid

SEEDS = sorted((derive(f"admin {n}", 32) for n in range(2)), key=public)
STRANGER = next(seed for seed in (derive(f"stranger {n}", 32) for n in range(64)) if public(seed) > public(SEEDS[0]))
CLUSTER = derive_uuid("cluster")
SCALARS = [int.from_bytes(derive(f"host {n} scalar", 32), "big") >> 1 for n in range(2)]
HOST_SEEDS = [derive(f"host {n} seed", 32) for n in range(2)]
HOSTS = [Host(uuid, f"kvm{n + 1}", hpke.public_bytes(hpke.private_of(SCALARS[n])), public(HOST_SEEDS[n]))
         for n, uuid in enumerate(sorted(derive_uuid(f"host {n}") for n in range(2)))]
TOKEN = derive("token", 16)
END = 1795980246
SECRET = token_secret(SEEDS[0], CLUSTER, TOKEN, END)
ONLY = Generation(PRIMARY.uuid, 2, primary_check(PRIMARY.key, CLUSTER, PRIMARY.uuid))
SHARED = Provider("shared", (ONLY,))
FIRST = Document(1, CLUSTER, bytes(32), "prod", 1, (public(SEEDS[0]),), (Member(HOSTS[0], 1, 1, bytes(16)),), ())
SECOND = dataclasses.replace(FIRST, epoch=2, previous=hashlib.sha256(body(FIRST)).digest(), providers=(SHARED,),
                             members=(Member(HOSTS[0], 1, 1, bytes(16)), Member(HOSTS[1], 2, 2, TOKEN)))
NEXT = Generation(OTHER_PRIMARY.uuid, 3, primary_check(OTHER_PRIMARY.key, CLUSTER, OTHER_PRIMARY.uuid))
THIRD = dataclasses.replace(
    SECOND, epoch=4, previous=derive("the document before", 32), threshold=2, admins=tuple(map(public, SEEDS)), admins_since=3,
    members=(SECOND.members[0], dataclasses.replace(SECOND.members[1], since=4, marks=3)),
    providers=(Provider("shared", (dataclasses.replace(ONLY, retired=4), NEXT)),))
BOTH = dataclasses.replace(SECOND, threshold=2, admins=tuple(map(public, SEEDS)))
CORP = Pushed("corp", "kmip", derive_uuid("corp"), 4, 86400, 1, (HOSTS[0].uuid,), ("kms1.example.com:5696", "kms2.example.com:5696"))
FOURTH = dataclasses.replace(THIRD, pushed=(CORP,))
ADMIN_KEY_PREFIX = "admin-key-"
ACKED = (CLUSTER, HOSTS[0].uuid, 2, hashlib.sha256(body(SECOND)).digest(), END, [PRIMARY.uuid])


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    admin_keys = admin_key_vectors() if native.has_argon2() else {}
    return {**document_vectors(), **envelope_vectors(), **join_vectors(), **ack_vectors(), **token_vectors(), **admin_keys,
            **identity_vectors()}


def uuid(value: bytes) -> str:
    """As text."""
    return str(UUID(bytes=value))


def host_text(host: Host) -> str:
    """A host in one line."""
    return f"{uuid(host.uuid)} {host.name} {host.seal_key.hex()} {host.sign_key.hex()}"


def document_fields(document: Document, digest: bytes) -> list[tuple[str, str]]:
    """What a document says."""
    fields = [("epoch", str(document.epoch)), ("cluster", uuid(document.cluster)), ("previous", document.previous.hex()),
              ("name", document.name), ("threshold", str(document.threshold)), ("hash", digest.hex())]
    fields += [("admin", admin.hex()) for admin in document.admins]
    if document.version() > 1:
        fields += [("admins_since", str(document.admins_since)), ("resumed", str(document.resumed))]
    marks = {member.host.uuid: f"{member.marks} " if document.version() > 1 else "" for member in document.members}
    fields += [("member", f"{member.state} {marks[member.host.uuid]}{member.since} {member.token.hex()} {host_text(member.host)}")
               for member in document.members]
    for provider in document.providers:
        if document.version() == 1:
            [only] = provider.generations
            fields.append(("provider", f"{uuid(only.primary)} {only.since} {only.check.hex()} {provider.name}"))
            continue
        fields.append(("provider", provider.name))
        fields += [("generation", f"{uuid(one.primary)} {one.since} {one.retired} {one.check.hex()}") for one in provider.generations]
    for pushed in document.pushed:
        fields.append(("pushed", f"{pushed.name} {pushed.kind} {uuid(pushed.uuid)} {pushed.since} {pushed.life} {pushed.flags}"))
        fields += [("keeper", uuid(keeper)) for keeper in pushed.keepers] + [("place", place) for place in pushed.places]
    return fields


def document_vectors() -> dict[str, VectorFile]:
    """Documents."""
    good = {"first": ("the first document", FIRST, SEEDS[:1]), "second": ("a host was removed", SECOND, SEEDS[:1]),
            "two-admins": ("both of two admins have signed", BOTH, SEEDS),
            "third": ("a rotation, other admins, a host that was compromised", THIRD, SEEDS),
            "pushed": ("a provider whose KEKs a keeper pushes", FOURTH, SEEDS),
            "pushed-only": ("nothing but that", dataclasses.replace(FIRST, pushed=(dataclasses.replace(CORP, since=1),)), SEEDS[:1]),
            "resumed": ("a board was accepted", dataclasses.replace(SECOND, resumed=2), SEEDS[:1])}
    made = {}
    for name, (why, document, seeds) in good.items():
        digest = hashlib.sha256(body(document)).digest()
        fields = [("expect", "ok"), ("what", "document"), ("why", why), *[("seed", seed.hex()) for seed in seeds]]
        made[f"document-{name}"] = VectorFile((*fields, *document_fields(document, digest)), (sign(document, seeds),))
    for name, (expect, why, data) in bad_documents().items():
        made[f"document-{name}"] = VectorFile((("expect", expect), ("what", "document"), ("why", why)), (data,))
    return made


def bad_documents() -> dict[str, tuple[str, str, bytes]]:
    """Documents with one defect."""
    data = sign(SECOND, SEEDS[:1])
    content = body(SECOND)
    twin = dataclasses.replace(HOSTS[1], name=HOSTS[0].name)
    changes: dict[str, tuple[str, dict[str, object]]] = {
        "epoch-0": ("epoch 0", {"epoch": 0}),
        "epoch-1-previous": ("epoch 1 with a document before it", {"epoch": 1}),
        "previous-zero": ("epoch 2 without a document before it", {"previous": bytes(32)}),
        "threshold-0": ("threshold 0", {"threshold": 0}),
        "threshold-2": ("threshold 2 of 1", {"threshold": 2}),
        "members-descend": ("members in another order", {"members": SECOND.members[::-1]}),
        "provider-twice": ("a provider stands twice", {"providers": (SHARED, SHARED)}),
        "since-later": ("a provider since epoch 3", {"providers": (Provider("shared", (dataclasses.replace(ONLY, since=3),)),)}),
        "state-3": ("a member in state 3", {"members": (dataclasses.replace(SECOND.members[0], state=3),)}),
        "one-name": ("two active hosts of one name", {"members": (SECOND.members[0], Member(twin, 1, 2, TOKEN))}),
        "name-dot": ("a name that begins with a dot", {"name": ".prod"}),
    }
    cases = {name: ("corrupt", why, sign(dataclasses.replace(SECOND, **change), SEEDS[:1]))  # type: ignore[arg-type]
             for name, (why, change) in changes.items()}
    older, newer = THIRD.providers[0].generations
    for name, why, pair in (
            ("generation-none", "a provider without generations", ()),
            ("generation-last-retired", "the newest generation is retired", (older, dataclasses.replace(newer, retired=4))),
            ("generation-descends", "generations in another order", (newer, older)),
            ("generation-later", "a generation since epoch 5", (older, dataclasses.replace(newer, since=5))),
            ("generation-retired-early", "retired in the epoch in which it was shared", (dataclasses.replace(older, retired=2), newer)),
            ("generation-twice", "two generations have one primary key", (older, dataclasses.replace(newer, primary=older.primary)))):
        changed = dataclasses.replace(THIRD, providers=(Provider("shared", pair),))
        cases[name] = ("corrupt", why, sign(changed, SEEDS))
    active, removed = THIRD.members
    for name, why, members in (("marks-8", "a mark that there is not", (active, dataclasses.replace(removed, marks=8))),
                               ("marks-active", "a mark of an active host", (dataclasses.replace(active, marks=1), removed))):
        cases[name] = ("corrupt", why, sign(dataclasses.replace(THIRD, members=members), SEEDS))
    for name, why, change in (
            ("pushed-later", "a pushed provider since epoch 5", {"since": 5}),
            ("pushed-life-0", "a life of 0 s", {"life": 0}),
            ("pushed-life-long", "a life of more than a year", {"life": 31536001}),
            ("pushed-flags-2", "a flag that there is not", {"flags": 2}),
            ("pushed-keeper-none", "no keeper", {"keepers": ()}),
            ("pushed-keeper-stranger", "a keeper that is not a host", {"keepers": (derive_uuid("another"),)}),
            ("pushed-keepers-descend", "keepers in another order", {"keepers": (HOSTS[1].uuid, HOSTS[0].uuid)}),
            ("pushed-place-control", "a place with a control character", {"places": ("kms\n1",)}),
            ("pushed-place-empty", "an empty place", {"places": ("",)}),
            ("pushed-name-taken", "the name of another provider", {"name": "shared"}),
            ("pushed-uuid-taken", "the UUID of a primary key", {"uuid": PRIMARY.uuid})):
        changed = dataclasses.replace(FOURTH, pushed=(dataclasses.replace(CORP, **change),))  # type: ignore[arg-type]
        cases[name] = ("corrupt", why, sign(changed, SEEDS))
    twice = dataclasses.replace(FOURTH, pushed=(CORP, dataclasses.replace(CORP, uuid=derive_uuid("another"))))
    third = sign(THIRD, SEEDS)
    cases |= {
        "pushed-twice": ("corrupt", "a pushed provider stands twice", sign(twice, SEEDS)),
        "needless-3": ("corrupt", "version 3 for what version 2 says", sign(THIRD, SEEDS, 3)),
        "needless-2": ("corrupt", "version 2 for what version 1 says", sign(SECOND, SEEDS[:1], 2)),
        "resumed-later": ("corrupt", "a board accepted in epoch 5", sign(dataclasses.replace(THIRD, resumed=5), SEEDS)),
        "third-too-few": ("denied", "one of two admins has signed", sign(THIRD, SEEDS[:1])),
        "third-by-stranger": ("denied", "another key has signed for an admin", sign(THIRD, [SEEDS[0], STRANGER])),
        "third-signature-flipped": ("denied", "one bit of a signature flipped", flipped(third, len(third) - 1)),
        "third-signatures-descend": ("corrupt", "signatures in another order", sign(THIRD, SEEDS[::-1])),
    }
    one, two = (sign(BOTH, [seed])[len(body(BOTH)) + 1:] for seed in SEEDS)
    return cases | {
        "magic-wrong": ("corrupt", "another magic", b"VMCRYPTF" + data[8:]),
        "version-4": ("unsupported", "version 4", data[:8] + b"\x04" + data[9:]),
        "reserved-10": ("corrupt", "reserved byte 10 is 1", data[:10] + b"\x01" + data[11:]),
        "short": ("corrupt", "the last byte is missing", data[:-1]),
        "long": ("corrupt", "a byte follows", data + b"\0"),
        "unsigned": ("denied", "no signature", content + b"\0"),
        "signature-flipped": ("denied", "one bit of the signature flipped", flipped(data, len(data) - 1)),
        "body-flipped": ("denied", "one bit of the hash of the document before flipped", flipped(data, 40)),
        "by-no-admin": ("denied", "signed by another key than its admin's",
                        content + b"\x01" + sign(BOTH, SEEDS[1:])[-65:-64] + one[1:]),
        "too-few": ("denied", "one of two admins has signed", sign(BOTH, SEEDS[:1])),
        "signatures-descend": ("corrupt", "signatures in another order", body(BOTH) + b"\x02" + two + one),
        "signature-twice": ("corrupt", "one signature twice", body(BOTH) + b"\x02" + one + one),
    }


def envelope_vectors() -> dict[str, VectorFile]:
    """Envelopes for the first host."""
    aad = envelope_aad(CLUSTER, PRIMARY.uuid, HOSTS[0].uuid, "shared")
    ephemeral = hpke.private_of(int.from_bytes(derive("ephemeral", 32), "big") >> 1)

    def sealed(bound: bytes, host: int = 0) -> bytes:
        return seal_envelope(HOSTS[host].seal_key, ephemeral, bound, PRIMARY.key)

    good = sealed(aad)
    other = derive_uuid("another")
    cases = {
        "good": ("ok", "a primary key for a host", good),
        "other-host": ("key-rejected", "sealed to another host", sealed(aad, 1)),
        "moved-host": ("key-rejected", "bound to another host", sealed(envelope_aad(CLUSTER, PRIMARY.uuid, other, "shared"))),
        "moved-cluster": ("key-rejected", "of another cluster", sealed(envelope_aad(other, PRIMARY.uuid, HOSTS[0].uuid, "shared"))),
        "moved-primary": ("key-rejected", "of another primary key", sealed(envelope_aad(CLUSTER, other, HOSTS[0].uuid, "shared"))),
        "moved-provider": ("key-rejected", "of another provider",
                           sealed(envelope_aad(CLUSTER, PRIMARY.uuid, HOSTS[0].uuid, "sharee"))),
        "enc-flipped": ("key-rejected", "enc is no point", flipped(good, 40)),
        "tag-flipped": ("key-rejected", "one bit of the tag flipped", flipped(good, len(good) - 1)),
        "suite-2": ("unsupported", "suite 2", good[:16] + b"\x02" + good[17:]),
        "version-2": ("unsupported", "version 2", good[:8] + b"\x02" + good[9:]),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "long": ("corrupt", "a byte follows", good + b"\0"),
    }
    place = [("cluster", uuid(CLUSTER)), ("provider", "shared"), ("primary", uuid(PRIMARY.uuid)), ("host", uuid(HOSTS[0].uuid)),
             ("private", SCALARS[0].to_bytes(32, "big").hex()), ("public", HOSTS[0].seal_key.hex()),
             ("key", PRIMARY.key.hex()), ("check", ONLY.check.hex())]
    return {f"envelope-{name}": VectorFile((("expect", expect), ("what", "envelope"), ("why", why), *place), (data,))
            for name, (expect, why, data) in cases.items()}


def join_vectors() -> dict[str, VectorFile]:
    """Join requests."""
    good = encode_join(CLUSTER, TOKEN, END, HOSTS[1], SECRET)
    cases = {
        "good": ("ok", "a host asks", good),
        "end-flipped": ("key-rejected", "a later end", flipped(good, 48)),
        "mac-flipped": ("key-rejected", "one bit of the MAC flipped", flipped(good, len(good) - 1)),
        "version-2": ("unsupported", "version 2", good[:8] + b"\x02" + good[9:]),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "long": ("corrupt", "a byte follows", good + b"\0"),
    }
    fields = [("cluster", uuid(CLUSTER)), ("token", TOKEN.hex()), ("end", str(END)), ("seed", SEEDS[0].hex()),
              ("secret", SECRET.hex()), ("asks", host_text(HOSTS[1]))]
    return {f"join-{name}": VectorFile((("expect", expect), ("what", "join"), ("why", why), *fields), (data,))
            for name, (expect, why, data) in cases.items()}


def ack_vectors() -> dict[str, VectorFile]:
    """Acknowledgements."""
    good = encode_ack(*ACKED, HOST_SEEDS[0])
    other = [*sorted([PRIMARY.uuid, derive_uuid("another")])]
    cases = {
        "good": ("ok", "a host has a key", good),
        "other-host": ("denied", "signed by another host", encode_ack(*ACKED, HOST_SEEDS[1])),
        "of-other-host": ("denied", "says to be of another host", encode_ack(CLUSTER, HOSTS[1].uuid, *ACKED[2:], HOST_SEEDS[0])),
        "of-other-cluster": ("denied", "says to be of another cluster",
                             encode_ack(derive_uuid("another"), *ACKED[1:], HOST_SEEDS[0])),
        "time-flipped": ("denied", "one bit of the time flipped", flipped(good, 88)),
        "keys-descend": ("corrupt", "keys in another order", encode_ack(*ACKED[:5], other[::-1], HOST_SEEDS[0])),
        "version-3": ("unsupported", "version 3", good[:8] + b"\x03" + good[9:]),
        "makes-none": ("corrupt", "version 2 for what version 1 says", encode_ack(*ACKED, HOST_SEEDS[0], [])),
        "makes-descend": ("corrupt", "keys by which it makes new ones in another order",
                          encode_ack(*ACKED, HOST_SEEDS[0], other[::-1])),
        "makes-flipped": ("denied", "one bit of a key by which it makes new ones flipped",
                          flipped(encode_ack(*ACKED, HOST_SEEDS[0], [PRIMARY.uuid]), 140)),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "long": ("corrupt", "a byte follows", good + b"\0"),
    }
    fields = [("cluster", uuid(CLUSTER)), ("by", host_text(HOSTS[0])), ("epoch", "2"), ("document", ACKED[3].hex()),
              ("time", str(END)), ("holds", uuid(PRIMARY.uuid)), ("seed", HOST_SEEDS[0].hex())]
    made = {f"ack-{name}": VectorFile((("expect", expect), ("what", "ack"), ("why", why), *fields), (data,))
            for name, (expect, why, data) in cases.items()}
    makes = VectorFile((("expect", "ok"), ("what", "ack"), ("why", "by which key a host makes new ones"), *fields,
                        ("makes", uuid(PRIMARY.uuid))), (encode_ack(*ACKED, HOST_SEEDS[0], [PRIMARY.uuid]),))
    return {**made, "ack-makes": makes}


def token_vectors() -> dict[str, VectorFile]:
    """A token."""
    digest, board = hashlib.sha256(body(FIRST)).digest(), "folder:/mnt/shared"
    fields = [("expect", "ok"), ("what", "token"), ("why", "a token"), ("cluster", uuid(CLUSTER)), ("epoch", "1"),
              ("document", digest.hex()), ("token", TOKEN.hex()), ("end", str(END)), ("secret", SECRET.hex()), ("board", board),
              ("text", token_text(CLUSTER, 1, digest, TOKEN, END, SECRET, board))]
    return {"token": VectorFile(tuple(fields))}


def admin_key_vectors() -> dict[str, VectorFile]:
    """Files of an admin key."""
    seed, cost = SEEDS[0], native.Cost(64, 1, 1)
    salt, nonce = derive("admin salt", 16), derive("admin nonce", 12)
    clear = admin_key_start(cost, salt, nonce, seed)
    key = native.argon2id(PASSPHRASE.encode(), salt, cost)
    good = encode_admin_key(clear, seed, key)
    costs = {"memory": (4194305, 1, 1), "memory-for-lanes": (127, 1, 16), "passes": (64, 65, 1), "lanes": (256, 1, 17)}
    dear = {name: admin_key_start(native.Cost(*values), salt, nonce, seed) for name, values in costs.items()}
    cases = private_file_cases(good, 56) | {
        "sealed-flipped": ("key-rejected", "one bit of the sealed seed flipped", resummed(flipped(good[:-32], 100) + bytes(32))),
        "cost-flipped": ("key-rejected", "another amount of memory", resummed(flipped(good[:-32], 16) + bytes(32))),
        "another-public": ("corrupt", "the public key of another admin",
                           encode_admin_key(admin_key_start(cost, salt, nonce, SEEDS[1]), seed, key)),
        **{f"cost-{name}": ("corrupt", f"too much {name}", encode_admin_key(start, seed, key)) for name, start in dear.items()},
    }
    made = {f"{ADMIN_KEY_PREFIX}good": (("expect", "ok"), "an admin key", good)}
    made |= {f"{ADMIN_KEY_PREFIX}{name}": (("expect", expect), why, data) for name, (expect, why, data) in cases.items()}
    fields = [("passphrase", PASSPHRASE), ("seed", seed.hex()), ("public", public(seed).hex())]
    return {name: VectorFile((expect, ("what", "admin-key"), ("why", why), *fields), (data,))
            for name, (expect, why, data) in made.items()}


def identity_vectors() -> dict[str, VectorFile]:
    """Files of a host's identity."""
    host, private = HOSTS[0], SCALARS[0].to_bytes(32, "big")
    good = encode_identity(host.uuid, private, host.seal_key, HOST_SEEDS[0])
    cases = {"good": ("ok", "a host's identity", good), **private_file_cases(good, 40)}
    fields = [("uuid", uuid(host.uuid)), ("private", private.hex()), ("public", host.seal_key.hex()),
              ("seed", HOST_SEEDS[0].hex())]
    return {f"identity-{name}": VectorFile((("expect", expect), ("what", "identity"), ("why", why), *fields), (data,))
            for name, (expect, why, data) in cases.items()}


def private_file_cases(good: bytes, at: int) -> dict[str, tuple[str, str, bytes]]:
    """What is wrong with a file that does not leave its owner; `at` is a byte that its checksum covers."""
    return {
        "magic-wrong": ("corrupt", "another magic", resummed(b"VMCRYPTF" + good[8:])),
        "version-2": ("unsupported", "version 2", resummed(good[:8] + b"\x02" + good[9:])),
        "version-2-longer": ("unsupported", "version 2 is judged before the length", good[:8] + b"\x02\0" + good),
        "reserved-10": ("corrupt", "reserved byte 10 is 1", resummed(good[:10] + b"\x01" + good[11:])),
        "checksum-wrong": ("corrupt", f"one bit of byte {at} flipped", flipped(good, at)),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "long": ("corrupt", "a byte follows", good + b"\0"),
        "short-in-version": ("corrupt", "the file ends within the version", good[:9]),
    }
