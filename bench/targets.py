"""The figures that vmcryptfs promises. A new one is one entry in `TARGETS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from results import Results, Spread

OURS = "vmcryptfs"


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
    """Our throughput over another system's."""

    job: str
    system: str
    bound: float

    def describe(self) -> str:
        return f"{self.job}: {OURS} / {self.system}"

    def measure(self, results: Results) -> Spread | None:
        return results.ratio((OURS, self.job), (self.system, self.job))


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
    unit = " s/GB"
    is_floor = False

    def describe(self) -> str:
        return f"{self.job}: daemon CPU"

    def measure(self, results: Results) -> Spread | None:
        return results.cpu_seconds_per_gb(OURS, self.job)


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


TARGETS: tuple[Target, ...] = (
    Against("randread-4k-qd32", "passthrough", 0.92),
    Against("randread-4k-qd32", "gocryptfs", 3.5),
    Against("randread-4k-qd32-2jobs", "passthrough", 0.92),
    Against("randread-4k-qd32-2jobs", "gocryptfs", 2),
    Against("randwrite-4k-qd32", "passthrough", 0.90),
    Against("randwrite-4k-qd32", "gocryptfs", 5),
    Against("seqread-1m-qd8", "passthrough", 0.85),
    Against("seqread-1m-qd8", "gocryptfs", 3),
    Against("seqwrite-1m-qd8", "passthrough", 0.75),
    Against("seqwrite-1m-qd8", "gocryptfs", 2.5),
    JobAgainst("randwrite-512-qd32", "randwrite-4k-qd32", 0.95),
    DaemonCpu("randread-4k-qd32", 1.5),
    DaemonCpu("randread-4k-qd32-2jobs", 1.5),
    DaemonCpu("randwrite-4k-qd32", 1.5),
    DaemonMemory(128),
)
