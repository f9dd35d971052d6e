"""The figures that vmcryptfs promises. A new one is one entry in `TARGETS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from results import Results, Spread
from systems import SYSTEMS

OURS = "vmcryptfs"
URING = "vmcryptfs-io-uring"
PLAIN = {OURS: "passthrough", URING: "libfuse-io-uring"}
"""What costs the same but for our layers and the cipher: FUSE without cryptography, on the same transport."""


class Target(ABC):
    """A bound on something measured."""

    bound: float
    unit = ""
    is_floor = True

    @abstractmethod
    def describe(self) -> str: ...

    @abstractmethod
    def measure(self, results: Results) -> Spread | None:
        """`None` where the run does not hold what it takes."""

    def is_met(self, measured: Spread) -> bool:
        return measured.median >= self.bound if self.is_floor else measured.median <= self.bound


@dataclass(frozen=True)
class Against(Target):
    """Throughput of one of ours over another system's."""

    job: str
    system: str
    bound: float
    ours: str = OURS

    def describe(self) -> str:
        return f"{self.job}: {self.ours} / {self.system}"

    def measure(self, results: Results) -> Spread | None:
        return results.ratio((self.ours, self.job), (self.system, self.job))


@dataclass(frozen=True)
class AgainstPeers(Target):
    """Throughput of one of ours over that of the encrypted peer which is best in this job."""

    job: str
    bound: float
    ours: str = OURS

    def describe(self) -> str:
        return f"{self.job}: {self.ours} / best encrypted peer"

    def measure(self, results: Results) -> Spread | None:
        peers = [name for name, kind in SYSTEMS.items() if kind.encrypts and not kind.is_ours]
        ratios = [results.ratio((self.ours, self.job), (peer, self.job)) for peer in peers]
        return min((ratio for ratio in ratios if ratio is not None), key=lambda ratio: ratio.median, default=None)


@dataclass(frozen=True)
class JobAgainst(Target):
    """Our IOPS in one job over our IOPS in another."""

    job: str
    other_job: str
    bound: float

    def describe(self) -> str:
        return f"{OURS}: {self.job} / {self.other_job}, IOPS"

    def measure(self, results: Results) -> Spread | None:
        return results.ratio((OURS, self.job), (OURS, self.other_job))


@dataclass(frozen=True)
class DaemonCpu(Target):
    """What our daemon spends for a gigabyte."""

    job: str
    bound: float
    ours: str = OURS
    unit = " s/GB"
    is_floor = False

    def describe(self) -> str:
        return f"{self.job}: {self.ours}, daemon CPU"

    def measure(self, results: Results) -> Spread | None:
        return results.cpu_seconds_per_gb(self.ours, self.job)


@dataclass(frozen=True)
class DaemonCpuAgainst(Target):
    """CPU for a gigabyte on FUSE over io_uring, over that on /dev/fuse."""

    job: str
    bound: float
    is_floor = False

    def describe(self) -> str:
        return f"{self.job}: {URING} / {OURS}, daemon CPU"

    def measure(self, results: Results) -> Spread | None:
        return results.cpu_ratio((URING, self.job), (OURS, self.job))


@dataclass(frozen=True)
class DaemonMemory(Target):
    """What our daemon occupies at most, over all jobs."""

    bound: float
    unit = " MiB"
    is_floor = False

    def describe(self) -> str:
        return "peak memory of the daemon"

    def measure(self, results: Results) -> Spread | None:
        peak = results.peak_memory.get(OURS)
        return None if peak is None else Spread.of([peak / (1 << 20)])


JOBS: tuple[tuple[str, float, float], ...] = (
    ("randread-4k-qd32-2jobs", 0.92, 4),
    ("randread-4k-qd32", 0.92, 4),
    ("randread-4k-qd1", 0.92, 1.3),
    ("randwrite-4k-qd32", 0.90, 3.5),
    ("mix-4k-qd16", 0.90, 4),
    ("seqread-1m-qd8", 0.90, 4),
    ("seqwrite-1m-qd8", 0.80, 3),
    ("write-4k-fdatasync", 0.90, 3),
)
"""Each with its bounds against FUSE without cryptography on the same transport, and against the best encrypted peer."""

TARGETS: tuple[Target, ...] = (
    *(Against(job, plain, bound, ours) for ours, plain in PLAIN.items() for job, bound, _ in JOBS),
    *(AgainstPeers(job, bound, ours) for ours in PLAIN for job, _, bound in JOBS),
    JobAgainst("randwrite-512-qd32", "randwrite-4k-qd32", 0.95),
    Against("randread-4k-qd32-2jobs", OURS, 1.5, URING),
    DaemonCpuAgainst("randread-4k-qd32-2jobs", 0.65),
    *(DaemonCpu(job, 1.5) for job in ("randread-4k-qd32", "randread-4k-qd32-2jobs", "randwrite-4k-qd32")),
    *(DaemonCpu(job, 0.9, URING) for job in ("randread-4k-qd32", "randread-4k-qd32-2jobs", "randwrite-4k-qd32")),
    *(DaemonCpu("seqread-1m-qd8", 0.35, ours) for ours in PLAIN),
    DaemonMemory(128),
)
