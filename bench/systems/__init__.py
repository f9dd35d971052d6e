"""What is compared. A new peer is one class in one of these files, and its place in `SYSTEMS`."""

from __future__ import annotations

from collections.abc import Mapping

from systems.base import System
from systems.folders import Encfs, Gocryptfs, Securefs
from systems.luks import Nbdkit, QemuStorageDaemon
from systems.ours import Vmcryptfs, VmcryptfsAwsLc, VmcryptfsRustCrypto, VmcryptfsUring
from systems.plain import Libfuse, LibfuseUring, Passthrough, Raw

QUICK: tuple[type[System], ...] = (Raw, Passthrough, LibfuseUring, Vmcryptfs, VmcryptfsUring, Gocryptfs)
"""What `--quick` compares unless told otherwise."""

ALL: tuple[type[System], ...] = (
    Raw,
    Passthrough,
    Libfuse,
    LibfuseUring,
    Vmcryptfs,
    VmcryptfsUring,
    VmcryptfsAwsLc,
    VmcryptfsRustCrypto,
    QemuStorageDaemon,
    Nbdkit,
    Gocryptfs,
    Securefs,
    Encfs,
)

SYSTEMS: Mapping[str, type[System]] = {system.name: system for system in ALL}
