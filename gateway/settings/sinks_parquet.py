"""Section of the Parquet sink."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Id, Milliseconds, Secret, Section, Text, Whole, field


def _place(value: Any) -> str:
    text = str(value)
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise Wrong(f"{text!r} is not a URL: {error}") from error
    folder = url.scheme == "file" and url.netloc == "" and url.path.startswith("/")
    bucket = url.scheme == "s3" and url.netloc != ""
    if not (folder or bucket) or url.query or url.fragment or "@" in url.netloc:
        raise Wrong(
            f"{text!r} is neither a folder nor a bucket",
            "Write file:///absolute/folder or s3://bucket/prefix.",
        )
    return text.rstrip("/")


class ParquetSection(Section):
    """Parquet files in a folder or an S3 bucket, by day and shard. Needs the extra `parquet`."""

    url: Annotated[Text, BeforeValidator(_place)] = field(
        "`file:///` and a folder, or `s3://` and bucket and prefix.", "s3://acme-usage/creditgate"
    )
    options: Mapping[Id, Secret] = field(
        "Settings of the bucket: `region`, `endpoint`, `access_key_id`, `secret_access_key`, …;"
        " what is missing comes from the AWS environment variables.",
        {"region": "eu-central-1", "secret_access_key": "${S3_SECRET}"},
        factory=dict,
    )
    batch_events: Annotated[int, Whole(1, 1_000_000)] = field(
        "Events in a batch, from which each shard gets a file.", 100_000, 100_000
    )
    linger_ms: Milliseconds = field(
        "Longest wait for a full batch. Events wait in the required store meanwhile.",
        60_000,
        60_000,
    )
    timeout_ms: Milliseconds = field("For one call to the bucket.", 30_000, 30_000)

    def compiled(self, _data_dir: Path) -> ParquetOptions:
        """Convert to the exporter's form."""
        return ParquetOptions(
            self.url,
            {name: value.get_secret_value() for name, value in self.options.items()},
            self.batch_events,
            self.linger_ms,
            self.timeout_ms,
        )
