"""All runs of one session, and what is drawn from them: medians, spreads, ratios."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from fio import Job, Sample


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

    def divided_by(self, divisor: float) -> Spread:
        return Spread(self.median / divisor, self.low / divisor, self.high / divisor)


@dataclass
class Results:
    runs: list[Run] = field(default_factory=list)
    peak_memory: dict[str, int] = field(default_factory=dict)
    """Bytes, by system; only of systems that have a daemon."""

    def of(self, system: str, job: str) -> list[Run]:
        """One a round, in order."""
        return [run for run in self.runs if run.system == system and run.job == job]

    def speed(self, system: str, job: Job) -> Spread | None:
        """In the job's unit: thousands of requests, or millions of bytes, a second."""
        samples = [run.sample for run in self.of(system, job.name)]
        if job.is_small():
            measured, divisor = spread([sample.iops for sample in samples]), 1e3
        else:
            measured, divisor = spread([sample.bytes_per_second for sample in samples]), 1e6
        return None if measured is None else measured.divided_by(divisor)

    def cpu_seconds_per_gb(self, system: str, job: str) -> Spread | None:
        has_daemon = system in self.peak_memory
        return spread([run.cpu_seconds_per_gb for run in self.of(system, job)]) if has_daemon else None

    def ratio(self, above: tuple[str, str], below: tuple[str, str]) -> Spread | None:
        """IOPS of one (system, job) over those of another: the ratio of medians, and the span of each round's ratio."""
        return ratio([run.sample.iops for run in self.of(*above)], [run.sample.iops for run in self.of(*below)])

    def cpu_ratio(self, above: tuple[str, str], below: tuple[str, str]) -> Spread | None:
        """As `ratio`, of the daemons' CPU time for a gigabyte."""
        sides = [[run.cpu_seconds_per_gb for run in self.of(*side)] for side in (above, below)]
        return ratio(*sides)


def ratio(tops: list[float], bottoms: list[float]) -> Spread | None:
    if not tops or len(tops) != len(bottoms) or min(bottoms) == 0:
        return None
    rounds = [top / bottom for top, bottom in zip(tops, bottoms)]
    return Spread(statistics.median(tops) / statistics.median(bottoms), min(rounds), max(rounds))


def spread(values: list[float]) -> Spread | None:
    return Spread.of(values) if values else None
