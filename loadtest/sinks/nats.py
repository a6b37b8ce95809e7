"""What NATS JetStream costs the exporter: `python -m loadtest.sinks.nats [--events 200000]`.

The server is killed and started again in the middle; the stream must have every event once.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import nats
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from gateway.domain.event_rows import EventRow
from gateway.exporter.sinks.event_json import event_json
from gateway.exporter.sinks.options import NatsOptions
from loadtest.sinks.measuring import (
    BATCH,
    Speed,
    Stopwatch,
    measure_exporter,
    outbox_server,
    read_rows,
)
from loadtest.sinks.servers import NatsServer

TEN_YEARS_MS = 10 * 365 * 86_400_000
"""The filled events are from 2023."""


async def load(url: str, rows: list[EventRow], events: int) -> Speed:
    """Publish the same messages, encoded before, with nats-py's `publish_async` as its users do."""
    connection = await nats.connect(url)
    stream = connection.jetstream(publish_async_max_pending=BATCH)
    await stream.add_stream(
        StreamConfig(name="loaded", subjects=["loaded"], duplicate_window=TEN_YEARS_MS / 1000)
    )
    payloads = [event_json(row) for row in rows]
    watch = Stopwatch()
    for first in range(0, events, BATCH):
        waiting = [
            await stream.publish_async(
                "loaded", payload, headers={"Nats-Msg-Id": f"{first}-{number}"}
            )
            for number, payload in enumerate(payloads)
        ]
        await asyncio.gather(*waiting)
    speed = watch.speed(-(-events // BATCH) * BATCH)
    await stream.delete_stream("loaded")
    await connection.close()
    return speed


async def load_counting(url: str, rows: list[EventRow], events: int) -> Speed:
    """The same with one subscription that counts the acknowledgements and looks at none of them."""
    connection = await nats.connect(url)
    stream = connection.jetstream()
    await stream.add_stream(
        StreamConfig(name="loaded", subjects=["loaded"], duplicate_window=TEN_YEARS_MS / 1000)
    )
    payloads = [event_json(row) for row in rows]
    missing, answered, inbox = 0, asyncio.Event(), connection.new_inbox()

    async def count(_message: Msg) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0:
            answered.set()

    await connection.subscribe(inbox, cb=count)
    watch, publish = Stopwatch(), connection.publish
    for first in range(0, events, BATCH):
        missing = len(payloads)
        answered.clear()
        for number, payload in enumerate(payloads):
            await publish("loaded", payload, inbox, {"Nats-Msg-Id": f"{first}-{number}"})
        await asyncio.wait_for(answered.wait(), 60)
    speed = watch.speed(-(-events // BATCH) * BATCH)
    assert (await stream.stream_info("loaded")).state.messages >= events
    await stream.delete_stream("loaded")
    await connection.close()
    return speed


async def stored(options: NatsOptions) -> int:
    """Messages in the stream; it drops repeats, so each is another event."""
    connection = await nats.connect(options.servers[0])
    info = await connection.jetstream().stream_info(options.stream)
    await connection.close()
    return info.state.messages


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    given = parser.parse_args()
    events: int = given.events
    with tempfile.TemporaryDirectory() as folder, outbox_server() as socket:
        server = NatsServer(Path(folder))
        server.start()

        def restart() -> None:
            server.stop()
            time.sleep(1)
            server.start()

        try:
            rows = asyncio.run(read_rows(socket))
            print("bare, publish_async: ", asyncio.run(load(server.url, rows, events)))
            print("bare, counted:       ", asyncio.run(load_counting(server.url, rows, events)))
            for stream, interruption in (("exported", None), ("restarted", restart)):
                options = NatsOptions(
                    (server.url,),
                    stream,
                    f"{stream}.{{kind}}",
                    create_stream=True,
                    max_replay_age_ms=TEN_YEARS_MS,
                )
                speed, figures = asyncio.run(
                    measure_exporter(socket, options, events, interruption)
                )
                print(f"exporter{', restart' if interruption else '':13}:", speed)
                kept = asyncio.run(stored(options))
                print(
                    f"  {kept} of {events} in the stream, {figures['duplicates']:.0f} repeats"
                    f" recognised, {figures['retries']:.0f} waits"
                )
                assert kept == events
        finally:
            server.stop()


if __name__ == "__main__":
    main()
