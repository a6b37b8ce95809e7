"""The embedded store under `kill -9`, and what its numbering shows afterwards."""

import sqlite3
from pathlib import Path

import pytest

from gateway.exporter.sinks.options import SqliteOptions
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from tests.support.outbox_writer import OutboxWriter
from tests.unit.exporter.sinks.contract import StoredIds
from tests.unit.exporter.sinks.killing import KillContract, ended, exported, start


class TestKills(KillContract):
    @pytest.fixture
    def options(self, tmp_path: Path) -> SqliteOptions:
        self.path = tmp_path / "events.db"
        return SqliteOptions(self.path)

    @pytest.fixture
    def stored_ids(self, options: SqliteOptions) -> StoredIds:
        async def read() -> list[str]:
            with sqlite3.connect(options.path) as connection:
                return [row[0] for row in connection.execute("SELECT event_id FROM events")]

        return read

    async def assert_whole(self, writer: OutboxWriter, stored_ids: StoredIds) -> None:
        await super().assert_whole(writer, stored_ids)
        with SqliteStore.at(self.path) as reader:
            assert reader.anomalies() == []
            assert reader.dead_letters() == []
            for shard, last in writer.last.items():
                ((span),) = reader.shard_contents(shard, last).spans
                assert (span.first_seq, span.last_seq, span.count) == (0, last.seq, last.seq + 1)

    async def test_two_exporters_on_one_store_do_no_harm(
        self,
        valkey_socket: Path,
        writer: OutboxWriter,
        options: SqliteOptions,
        stored_ids: StoredIds,
    ) -> None:
        """The second waits for the first; when that is killed, it takes over."""
        first, second = start(valkey_socket, options), start(valkey_socket, options)
        await writer.write_many(40)
        await exported(writer)
        first.kill()
        await ended(first)
        await writer.write_many(40)
        await exported(writer)
        second.terminate()
        assert await ended(second) == 0
        await self.assert_whole(writer, stored_ids)
