"""Parquet files in a folder, and in S3 (moto's server)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from gateway.domain.delivery import Place
from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.exporter.sink import Batch, SinkUnavailable
from gateway.exporter.sinks.options import SinkOptions
from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.exporter.sinks.parquet import ParquetSink, encode
from gateway.exporter.sinks.parquet_runs import runs
from tests.support.s3_server import free_port, make_bucket, s3_server
from tests.unit.exporter.sinks.contract import StoredIds, make_batch, make_row
from tests.unit.exporter.sinks.cursorless import CursorlessContract
from tests.unit.exporter.sinks.killing import KillContract

DAY_MS = 86_400_000
FIRST = "date=2023-11-14/shard=00/1-0000000000-0000000004.parquet"


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ids_in(files: dict[str, bytes]) -> list[str]:
    found: list[str] = []
    for content in files.values():
        found += pq.read_table(pa.BufferReader(content)).column("event_id").to_pylist()
    return found


@pytest.fixture
def unacceptable() -> EventRow:
    """A lone surrogate is no UTF-8."""
    return make_row(0, event_id="r0-0:bad", facts={})._replace(facts='"\ud800"')


class TestFolder(CursorlessContract):
    @pytest.fixture
    def unacceptable(self, unacceptable: EventRow) -> EventRow:
        return unacceptable

    @pytest.fixture
    async def sink(self, folder: Path) -> AsyncIterator[ParquetSink]:
        sink = ParquetSink(ParquetOptions(folder.as_uri()))
        yield sink
        await sink.close()

    @pytest.fixture
    def stored_ids(self, folder: Path) -> StoredIds:
        async def read() -> list[str]:
            return ids_in(files_in(folder))

        return read


class TestKilled(KillContract):
    @pytest.fixture
    def options(self, folder: Path) -> SinkOptions:
        return ParquetOptions(folder.as_uri())

    @pytest.fixture
    def stored_ids(self, folder: Path) -> StoredIds:
        async def read() -> list[str]:
            return ids_in(files_in(folder))

        return read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "usage of März"


@pytest.fixture
async def sink(folder: Path) -> AsyncIterator[ParquetSink]:
    sink = ParquetSink(ParquetOptions(folder.as_uri()))
    await sink.open()
    yield sink
    await sink.close()


async def test_a_row_comes_back_as_it_went_in(sink: ParquetSink, folder: Path) -> None:
    rows = [make_row(0, cost_nano=3), make_row(1, kind="grant", usage={}, facts={})]
    await sink.write(Batch(rows))
    (content,) = files_in(folder).values()
    table = pq.read_table(pa.BufferReader(content))
    assert table.column_names == list(COLUMNS)
    assert [EventRow(**each) for each in table.to_pylist()] == rows


async def test_a_dataset_of_several_days_and_shards_reads_as_one_table(
    sink: ParquetSink, folder: Path
) -> None:
    """As on the page."""
    later = make_row(5, shard=11, occurred_at_ms=1_700_000_000_000 + DAY_MS, kind="expire")
    await sink.write(Batch([*make_batch(0, 5).rows, later]))
    dataset = ds.dataset(folder, partitioning="hive")
    table = dataset.to_table(
        columns=["customer_id", "amount_nano"], filter=ds.field("kind") == "settle"
    )
    assert table.column("amount_nano").to_pylist() == [700, 701, 702, 703, 704]
    assert dataset.count_rows(filter=ds.field("date") == "2023-11-15") == 1
    assert dataset.count_rows(filter=ds.field("shard") == 11) == 1


async def test_files_are_named_by_day_shard_epoch_and_range(
    sink: ParquetSink, folder: Path
) -> None:
    later = make_row(5, occurred_at_ms=1_700_000_000_000 + DAY_MS)
    other = make_row(7, shard=12, epoch=2)
    await sink.write(Batch([*make_batch(0, 5).rows, later, other]))
    assert sorted(files_in(folder)) == [
        FIRST,
        "date=2023-11-14/shard=12/2-0000000007-0000000007.parquet",
        "date=2023-11-15/shard=00/1-0000000005-0000000005.parquet",
    ]


async def test_a_repeat_leaves_the_file_alone(sink: ParquetSink, folder: Path) -> None:
    await sink.write(make_batch(0, 5))
    path = folder / FIRST
    before = path.stat().st_ino, path.read_bytes()
    await sink.open()
    assert (await sink.write(make_batch(0, 5))).duplicates == 5
    assert (path.stat().st_ino, path.read_bytes()) == before


async def test_the_same_rows_give_the_same_bytes() -> None:
    rows = make_batch(0, 50).rows
    assert encode(rows) == encode(list(rows))


async def test_only_what_no_file_has_is_written(sink: ParquetSink, folder: Path) -> None:
    await sink.write(make_batch(2, 4))
    await sink.write(make_batch(6, 8))
    await sink.open()
    written = await sink.write(make_batch(0, 10))
    assert (written.stored, written.duplicates) == (6, 4)
    ranges = [name.rpartition("/")[2] for name in files_in(folder)]
    assert sorted(ranges) == [
        f"1-{low:010d}-{high:010d}.parquet"
        for low, high in ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
    ]


async def test_a_gap_ends_a_file_because_its_name_says_what_it_has() -> None:
    rows = [make_row(seq) for seq in (3, 1, 2, 7, 2)]
    assert [[row.seq for row in run.rows] for run in runs(rows)] == [[1, 2, 3], [7]]


async def test_of_two_that_write_the_same_file_one_has_duplicates(folder: Path) -> None:
    pair = [ParquetSink(ParquetOptions(folder.as_uri())) for _ in range(2)]
    for each in pair:
        await each.open()
    done = await asyncio.gather(*(each.write(make_batch(0, 500)) for each in pair))
    assert sorted((each.stored, each.duplicates) for each in done) == [(0, 500), (500, 0)]
    assert len(files_in(folder)) == 1


async def test_a_folder_that_cannot_be_written_is_unavailable_and_then_goes_on(
    sink: ParquetSink, folder: Path
) -> None:
    await sink.write(make_batch(0, 1))
    await asyncio.to_thread(folder.rename, folder.with_name("away"))
    await asyncio.to_thread(folder.touch)
    with pytest.raises(SinkUnavailable):
        await sink.write(make_batch(1, 2))
    with pytest.raises(SinkUnavailable):
        await sink.open()
    await asyncio.to_thread(folder.unlink)
    await asyncio.to_thread(folder.with_name("away").rename, folder)
    await sink.open()
    assert (await sink.write(make_batch(0, 2))).stored == 1


async def test_writing_unopened_is_unavailable(folder: Path) -> None:
    with pytest.raises(SinkUnavailable):
        await ParquetSink(ParquetOptions(folder.as_uri())).write(make_batch(0, 1))


# S3


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "the-secret", "region": "eu-central-1"}
_buckets = iter(range(1000))


@pytest.fixture
def bucket(s3: str) -> str:
    name = f"usage-{next(_buckets)}"
    make_bucket(s3, name)
    return name


def bucket_options(url: str, bucket: str, **more: str) -> ParquetOptions:
    return ParquetOptions(f"s3://{bucket}/gate", {**KEYS, "endpoint": url, **more})


def objects_in(url: str, bucket: str) -> dict[str, bytes]:
    config: Any = {**KEYS, "endpoint": url}
    store = S3Store.from_url(f"s3://{bucket}", config=config, client_options={"allow_http": True})
    listed = [each["path"] for page in obstore.list(store) for each in page]
    return {path: obstore.get(store, path).bytes().to_bytes() for path in listed}


class TestBucket(CursorlessContract):
    @pytest.fixture
    def unacceptable(self, unacceptable: EventRow) -> EventRow:
        return unacceptable

    @pytest.fixture
    async def sink(self, s3: str, bucket: str) -> AsyncIterator[ParquetSink]:
        sink = ParquetSink(bucket_options(s3, bucket))
        yield sink
        await sink.close()

    @pytest.fixture
    def stored_ids(self, s3: str, bucket: str) -> StoredIds:
        async def read() -> list[str]:
            return ids_in(await asyncio.to_thread(objects_in, s3, bucket))

        return read


@pytest.mark.slow
class TestBucketKilled(KillContract):
    @pytest.fixture
    def options(self, s3: str, bucket: str) -> SinkOptions:
        return bucket_options(s3, bucket)

    @pytest.fixture
    def stored_ids(self, s3: str, bucket: str) -> StoredIds:
        async def read() -> list[str]:
            return ids_in(await asyncio.to_thread(objects_in, s3, bucket))

        return read


async def test_objects_lie_under_the_prefix(s3: str, bucket: str) -> None:
    sink = ParquetSink(bucket_options(s3, bucket))
    await sink.open()
    await sink.write(make_batch(0, 5))
    assert list(await asyncio.to_thread(objects_in, s3, bucket)) == [f"gate/{FIRST}"]


async def test_a_second_writer_does_not_overwrite_an_object(s3: str, bucket: str) -> None:
    first, second = (ParquetSink(bucket_options(s3, bucket)) for _ in range(2))
    await first.open()
    await second.open()
    await second.write(make_batch(9, 10))  # lists the folder before the other has written
    assert (await first.write(make_batch(0, 5))).stored == 5
    before = (await asyncio.to_thread(objects_in, s3, bucket))[f"gate/{FIRST}"]
    other = [make_row(seq, customer_id="changed") for seq in range(5)]
    assert (await second.write(Batch(other, {0: Place(1, 4)}))).duplicates == 5
    assert (await asyncio.to_thread(objects_in, s3, bucket))[f"gate/{FIRST}"] == before


async def test_a_missing_bucket_is_named_and_no_secret_is(s3: str) -> None:
    sink = ParquetSink(bucket_options(s3, "no-such-bucket"))
    with pytest.raises(SinkUnavailable, match="bucket no-such-bucket: NoSuchBucket") as caught:
        await sink.open()
    assert "the-secret" not in str(caught.value) + repr(sink)
    assert "the-secret" not in repr(bucket_options(s3, "b"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"secret_access_key": "the-secret"}, "AccessKeyId"), ({"regoin": "x"}, "regoin")],
)
async def test_settings_that_do_not_fit_are_named(settings: dict[str, str], named: str) -> None:
    sink = ParquetSink(ParquetOptions("s3://usage", settings))
    with pytest.raises(SinkUnavailable, match=f"check `options`.*{named}") as caught:
        await sink.open()
    assert "the-secret" not in str(caught.value)


async def test_it_goes_on_when_the_server_is_back() -> None:
    port = free_port()
    with s3_server(port) as url:
        make_bucket(url, "usage")
        sink = ParquetSink(bucket_options(url, "usage"))
        await sink.open()
        assert (await sink.write(make_batch(0, 5))).stored == 5
    with pytest.raises(SinkUnavailable):
        await sink.write(make_batch(5, 6))
    with s3_server(port) as url:
        make_bucket(url, "usage")  # moto keeps objects in memory
        await sink.open()
        assert (await sink.write(make_batch(5, 6))).stored == 1


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    silent = await asyncio.start_server(lambda _r, _w: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    sink = ParquetSink(replace(bucket_options(f"http://127.0.0.1:{port}", "b"), timeout_ms=300))
    with pytest.raises(SinkUnavailable):
        await sink.open()
    silent.close()
