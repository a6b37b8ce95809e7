"""A sample with some figures set."""

import dataclasses
from typing import Final

from loadtest.measure import Sample

SAMPLE: Final = Sample(
    good=100,
    bad=0,
    per_second=50.0,
    cpu_us=100.0,
    other_cpu_us=0.0,
    redis_us=40.0,
    scripts_us=30.0,
    scripts=2.0,
    p50_ms=1.0,
    p99_ms=2.0,
    first_byte_p50_ms=1.0,
    core_share=0.5,
    foreign_share=0.0,
)


def sampled(**figures: float) -> Sample:
    """SAMPLE with these figures."""
    return dataclasses.replace(SAMPLE, **figures)  # type: ignore[arg-type]  # good and bad are not set
