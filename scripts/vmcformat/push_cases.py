"""Vectors of KEKs that keepers push."""

from . import hpke
from .cluster_cases import CLUSTER, CORP, HOST_SEEDS, HOSTS, SCALARS, host_text, uuid
from .header_bad import flipped
from .push import encode_want, kek_start, refuse_kek, seal_kek, wish_new, wish_of
from .vectorfile import VectorFile, derive, derive_uuid

KEEPER, HOST = HOSTS
FIRST_REFERENCE, SECOND_REFERENCE = sorted(derive(f"reference {n}", 16) for n in range(2))
KEY_ID = "8b1c6a4e-7c7e-4d0e-9b57-6f3f0d6e2a11"
VM, VM_NAME = derive_uuid("vm"), "web01"
KEK = derive("pushed KEK", 32)
WISHES = [wish_of(FIRST_REFERENCE, KEY_ID), wish_new(SECOND_REFERENCE, VM, VM_NAME)]


def vectors() -> dict[str, VectorFile]:
    """File name to vector."""
    return {**want_vectors(), **kek_vectors()}


def want_vectors() -> dict[str, VectorFile]:
    """Wants of the second host."""
    place, seed = (CLUSTER, HOST.uuid, "corp"), HOST_SEEDS[1]
    good = encode_want(*place, WISHES, seed)
    other = derive_uuid("another")
    cases = {
        "good": ("ok", "a host wants a KEK and a new one", good),
        "other-signer": ("denied", "signed by another host", encode_want(*place, WISHES, HOST_SEEDS[0])),
        "of-other-host": ("denied", "says to be of another host", encode_want(CLUSTER, KEEPER.uuid, "corp", WISHES, seed)),
        "of-other-cluster": ("denied", "says to be of another cluster", encode_want(other, HOST.uuid, "corp", WISHES, seed)),
        "of-other-provider": ("denied", "says to be for another provider", encode_want(CLUSTER, HOST.uuid, "corq", WISHES, seed)),
        "key-flipped": ("denied", "one bit of a key id flipped", flipped(good, 80)),
        "none": ("corrupt", "no wish", encode_want(*place, [], seed)),
        "descend": ("corrupt", "wishes in another order", encode_want(*place, WISHES[::-1], seed)),
        "twice": ("corrupt", "one reference twice", encode_want(*place, WISHES[:1] * 2, seed)),
        "reference-zero": ("corrupt", "a reference of zeros", encode_want(*place, [wish_of(bytes(16), KEY_ID)], seed)),
        "kind-3": ("corrupt", "a wish of kind 3", encode_want(*place, [b"\x03" + WISHES[0][1:]], seed)),
        "version-2": ("unsupported", "version 2", good[:8] + b"\x02" + good[9:]),
        "short": ("corrupt", "the last byte is missing", good[:-1]),
        "long": ("corrupt", "a byte follows", good + b"\0"),
    }
    fields = [("cluster", uuid(CLUSTER)), ("provider", "corp"), ("by", host_text(HOST)), ("seed", seed.hex()),
              ("key", f"{FIRST_REFERENCE.hex()} {KEY_ID}"), ("new", f"{SECOND_REFERENCE.hex()} {uuid(VM)} {VM_NAME}")]
    return {f"want-{name}": VectorFile((("expect", expect), ("what", "want"), ("why", why), *fields), (data,))
            for name, (expect, why, data) in cases.items()}


def kek_vectors() -> dict[str, VectorFile]:
    """KEKs for the second host, by the first."""
    ephemeral = hpke.private_of(int.from_bytes(derive("ephemeral", 32), "big") >> 1)
    ids = (CLUSTER, KEEPER.uuid, HOST.uuid, CORP.uuid)

    def clear(outcome: int = 1, reference: bytes = FIRST_REFERENCE, key: str = KEY_ID, keeper: bytes = KEEPER.uuid) -> bytes:
        return kek_start((CLUSTER, keeper, HOST.uuid, CORP.uuid), reference, outcome, key)

    def sealed(start: bytes, to: int = 1, seed: int = 0) -> bytes:
        return seal_kek(start, HOSTS[to].seal_key, ephemeral, KEK, HOST_SEEDS[seed])

    good, why = sealed(clear()), "no member has it"
    refused = refuse_kek(clear(16), why, HOST_SEEDS[0])
    moved = seal_kek(clear(), HOST.seal_key, ephemeral, KEK, HOST_SEEDS[0])
    cases = {
        "good": ("ok", "a KEK for a host", good, "1"),
        "unasked": ("ok", "a KEK that its host did not wish for", sealed(clear(reference=bytes(16))), "1"),
        "unwraps-only": ("ok", "a KEK that only unwraps", sealed(clear(2)), "2"),
        "refused": ("ok", "a refusal", refused, "16"),
        "refused-new": ("ok", "a new KEK was not made", refuse_kek(clear(17, key=""), why, HOST_SEEDS[0]), "17"),
        "other-host": ("key-rejected", "sealed to another host", sealed(clear(), to=0), "1"),
        "other-signer": ("denied", "signed by another host", sealed(clear(), seed=1), "1"),
        "no-keeper": ("denied", "by a host that is not a keeper", sealed(clear(keeper=HOST.uuid), seed=1), "1"),
        "reference-flipped": ("denied", "one bit of the reference flipped", flipped(moved, 85), "1"),
        "tag-flipped": ("denied", "one bit of the tag flipped", flipped(good, len(good) - 65), "1"),
        "outcome-3": ("corrupt", "outcome 3", refuse_kek(clear(3), why, HOST_SEEDS[0]), "3"),
        "outcome-21": ("corrupt", "outcome 21", refuse_kek(clear(21), why, HOST_SEEDS[0]), "21"),
        "no-key": ("corrupt", "a KEK without a key id", sealed(clear(key="")), "1"),
        "why-long": ("corrupt", "a reason of 1025 bytes", refuse_kek(clear(16), "x" * 1025, HOST_SEEDS[0]), "16"),
        "version-2": ("unsupported", "version 2", good[:8] + b"\x02" + good[9:], "1"),
        "short": ("corrupt", "the last byte is missing", good[:-1], "1"),
        "long": ("corrupt", "a byte follows", good + b"\0", "1"),
    }
    fields = [*zip(("cluster", "keeper", "host", "provider"), map(uuid, ids)), ("by", host_text(KEEPER)),
              ("seed", HOST_SEEDS[0].hex()), ("private", SCALARS[1].to_bytes(32, "big").hex()), ("public", HOST.seal_key.hex())]
    made = {}
    for name, (expect, what, data, outcome) in cases.items():
        unasked, new = name == "unasked", name in ("refused-new", "no-key")
        given = ("kek", KEK.hex()) if outcome in ("1", "2") else ("refused", why)
        rest = [("reference", bytes(16).hex() if unasked else FIRST_REFERENCE.hex()), ("key", "" if new else KEY_ID),
                ("outcome", outcome), given]
        made[f"kek-{name}"] = VectorFile((("expect", expect), ("what", "kek"), ("why", what), *fields, *rest), (data,))
    return made
