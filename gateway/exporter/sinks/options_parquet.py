"""What the Parquet sink is configured with."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ParquetOptions:
    """url: file:///FOLDER or s3://BUCKET/PREFIX; settings: of the object store, secrets among them;
    batch_events, linger_ms: see `Sink`, so that files are not tiny; timeout_ms: of one call to the bucket
    """

    url: str
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    batch_events: int = 100_000
    linger_ms: int = 60_000
    timeout_ms: int = 30_000
