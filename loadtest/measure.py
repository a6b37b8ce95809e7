"""CPU time of processes and of Redis, and how quiet the machine was meanwhile.

Invariants: a sample is judged by what other programs did while it ran, never by its own figure: the
quiet ones are kept, and when there are too few, the quietest third, and the report says so.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import psutil
import redis

QUIET_FOREIGN_SHARE: Final = 0.10
"""Most CPU that programs outside the measurement may take, as a share of one core."""
_LEAST_QUIET: Final = 3
_SCRIPTS: Final = ("cmdstat_evalsha", "cmdstat_fcall")


def cpu_s(pids: Iterable[int]) -> float:
    """User and system CPU seconds of these processes so far; one that is gone counts nothing."""
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def machine_busy_s() -> float:
    """CPU seconds the whole machine has been busy, stolen time included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


@dataclass(frozen=True, slots=True)
class RedisCost:
    """What a Redis has spent so far: CPU seconds of the process, script calls and their seconds."""

    cpu_s: float
    script_calls: int
    script_s: float

    def since(self, before: "RedisCost") -> "RedisCost":
        """The difference."""
        return RedisCost(
            self.cpu_s - before.cpu_s,
            self.script_calls - before.script_calls,
            self.script_s - before.script_s,
        )


NOTHING_SPENT: Final = RedisCost(0.0, 0, 0.0)


def redis_cost(client: "redis.Redis") -> RedisCost:
    """Read a Redis's own accounting (INFO cpu, commandstats)."""
    cpu = client.info("cpu")
    stats = client.info("commandstats")
    scripts = [stats[name] for name in _SCRIPTS if name in stats]
    return RedisCost(
        cpu_s=cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        script_calls=sum(each["calls"] for each in scripts),
        script_s=sum(each["usec"] for each in scripts) / 1e6,
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured run of one target.

    cpu_us:         CPU microseconds of the target's serving processes per good answer
    other_cpu_us:   of its further processes (the exporter, the supervisor)
    redis_us:       of the Redis process per good answer
    scripts_us:     inside its scripts, per good answer
    scripts:        calls of its scripts, per good answer
    core_share:     how much of a core the serving processes used while the load ran
    foreign_share:  CPU of programs outside the measurement, as a share of one core
    """

    good: int
    bad: int
    per_second: float
    cpu_us: float
    other_cpu_us: float
    redis_us: float
    scripts_us: float
    scripts: float
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    core_share: float
    foreign_share: float


def quiet(samples: Sequence[Sample]) -> tuple[list[Sample], bool]:
    """The samples to believe, and whether they were all quiet."""
    calm = [sample for sample in samples if sample.foreign_share <= QUIET_FOREIGN_SHARE]
    if len(calm) >= min(_LEAST_QUIET, len(samples)):
        return calm, True
    ordered = sorted(samples, key=lambda sample: sample.foreign_share)
    return ordered[: max(1, len(samples) // 3)], False


def median(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> float:
    """The median of one figure; NaN without samples."""
    return statistics.median(map(figure, samples)) if samples else float("nan")
