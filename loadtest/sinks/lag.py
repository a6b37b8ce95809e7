"""How long an event takes from the gate into a row that can be queried: `python -m loadtest.sinks.lag`.

Starts `creditgate dev` with its embedded ledger and store, puts load on it, and looks for new rows in the
store a hundred times a second. An event's lag is from the ledger's clock when its balance moved to the moment
when its row was seen, so half of a look's interval is the measurement's own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gateway.exporter.sinks.options import SqliteOptions
from gateway.exporter.sinks.sqlite_reader import SqliteAccess

LOOK_S = 0.01
PORT = 18_480


def watch(path: Path, until_s: float) -> list[float]:
    """The lags of all events that arrive, in ms."""
    lags: list[float] = []
    with SqliteAccess(SqliteOptions(path)).open() as store:
        position = store.latest(1)[-1].position
        while time.monotonic() < until_s:
            found = store.latest(100_000, after=position)
            now_ms = time.time() * 1000
            lags += [now_ms - each.event.occurred_at_ms for each in found]
            position = found[-1].position if found else position
            time.sleep(LOOK_S)
    return lags


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gateway.cli"]
        dev = subprocess.Popen(
            [
                *command,
                "dev",
                "--data-dir",
                folder,
                "--port",
                str(PORT),
                "--admin-port",
                str(PORT + 1),
                "--console-port",
                str(PORT + 2),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            store = Path(folder) / "events.db"
            while not store.exists():
                time.sleep(0.1)
            time.sleep(3)
            load = subprocess.Popen(
                [
                    *command, "loadtest", f"http://127.0.0.1:{PORT}", "--key", "sk-load",
                    "-m", "sim-small", "-r", str(given.rate), "-d", f"{given.seconds}s",
                    "--warmup", "3s", "--stream", "0",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(6)
            seconds = given.seconds - 5
            lags = sorted(watch(store, time.monotonic() + seconds))
            load.wait(120)
        finally:
            dev.terminate()
            dev.wait(30)
    assert lags, "no event arrived"
    p50, p99 = (lags[int(len(lags) * share)] for share in (0.5, 0.99))
    print(f"{len(lags) / seconds:,.0f} events a second; lag p50 {p50:.0f} ms, p99 {p99:.0f} ms,")
    print(f"most {lags[-1]:.0f} ms")


if __name__ == "__main__":
    main()
