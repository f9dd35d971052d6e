"""All runs of one session, and what is drawn from them: medians, spreads, ratios."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from fio import Sample


@dataclass(frozen=True)
class Run:
    """One job on one system in one round."""

    round: int
    job: str
    system: str
    sample: Sample
    daemon_cpu_seconds: float

    @property
    def cpu_seconds_per_gb(self) -> float:
        return self.daemon_cpu_seconds / (self.sample.bytes / 1e9)


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    runs: list[Run] = field(default_factory=list)
    peak_memory: dict[str, int] = field(default_factory=dict)
    """Bytes, by system; only of systems that have a daemon."""

    def of(self, system: str, job: str) -> list[Run]:
        """One a round, in order."""
        return [run for run in self.runs if run.system == system and run.job == job]

    def iops(self, system: str, job: str) -> Spread | None:
        return spread([run.sample.iops for run in self.of(system, job)])

    def bytes_per_second(self, system: str, job: str) -> Spread | None:
        return spread([run.sample.bytes_per_second for run in self.of(system, job)])

    def cpu_seconds_per_gb(self, system: str, job: str) -> Spread | None:
        has_daemon = system in self.peak_memory
        return spread([run.cpu_seconds_per_gb for run in self.of(system, job)]) if has_daemon else None

    def ratio(self, above: tuple[str, str], below: tuple[str, str]) -> Spread | None:
        """IOPS of one (system, job) over those of another: the ratio of medians, and the span of each round's ratio."""
        tops = [run.sample.iops for run in self.of(*above)]
        bottoms = [run.sample.iops for run in self.of(*below)]
        if not tops or len(tops) != len(bottoms):
            return None
        rounds = [top / bottom for top, bottom in zip(tops, bottoms)]
        return Spread(statistics.median(tops) / statistics.median(bottoms), min(rounds), max(rounds))


def spread(values: list[float]) -> Spread | None:
    return Spread.of(values) if values else None
