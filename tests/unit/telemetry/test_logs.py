"""What a log says, and what it must never say. Each test logs from a process of its own."""

import json
import subprocess
import sys
from typing import Any

CANARY = "sk-canary-prompt"

SETUP = """
import asyncio, logging, structlog
from gateway.telemetry.logs import RequestLog, configure_logs, failure, log_loop_failures
from gateway.telemetry.metrics import Counter
configure_logs("worker-0", style="json")
log = structlog.get_logger("gate")
"""


def logged(program: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + program], capture_output=True, text=True, check=True
    )
    assert CANARY not in done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_says_when_who_and_what() -> None:
    [line] = logged("log.info('draining', grace_s=3)")
    assert line["event"] == "draining"
    assert line["process"] == "worker-0"
    assert line["level"] == "info"
    assert line["grace_s"] == 3
    assert line["at"].endswith("+00:00")


def test_an_exception_is_told_by_type_and_place_and_never_by_its_text() -> None:
    [line] = logged(f"""
try:
    try:
        int({CANARY!r})
    except ValueError as error:
        raise RuntimeError({CANARY!r}) from error
except RuntimeError:
    log.exception("failed")
""")
    assert line["error"] == "RuntimeError"
    assert line["cause"] == "ValueError"
    assert line["place"] == "<string>:12"


def test_the_place_of_a_failure_is_the_innermost_in_our_own_code() -> None:
    [line] = logged(f"""
from gateway.domain.money import parse_amount
try:
    parse_amount({CANARY!r})
except ValueError as error:
    log.error("refused", **failure(error))
""")
    assert line["error"] == "MoneyError"
    assert line["place"].startswith("domain/money.py:")


def test_records_of_libraries_come_without_their_arguments() -> None:
    [line] = logged(f"""
try:
    raise ValueError({CANARY!r})
except ValueError:
    logging.getLogger("aiohttp.server").error("Error handling %s", {CANARY!r}, exc_info=True)
""")
    assert line["said"] == "Error handling %s"
    assert line["logger"] == "aiohttp.server"
    assert line["error"] == "ValueError"


def test_what_no_task_catches_is_told_by_type() -> None:
    [line] = logged(f"""
async def main():
    log_loop_failures(asyncio.get_running_loop())
    async def fail():
        raise KeyError({CANARY!r})
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    del task
    import gc; gc.collect()
asyncio.run(main())
""")
    assert line["event"] == "uncaught"
    assert line["error"] == "KeyError"


def test_a_log_whose_reader_has_gone_stops_nobody() -> None:
    program = """
import os
r, w = os.pipe()
os.close(r)
kept = os.dup(2)
os.dup2(w, 2)
log.error("nobody hears this")
os.dup2(kept, 2)
log.error("but this")
"""
    [line] = logged(program)
    assert line["event"] == "but this"


def test_every_request_noted_is_one_line_in_order() -> None:
    lines = logged("""
async def main():
    lines = RequestLog("worker-0", Counter(), style="json")
    for number in range(1000):
        lines.note({"at_ms": 1_700_000_000_123, "request_id": str(number), "status": 200})
        if number % 100 == 0:
            await asyncio.sleep(0.01)
    await lines.close()
asyncio.run(main())
""")
    assert [line["request_id"] for line in lines] == [str(number) for number in range(1000)]
    assert lines[0]["at"] == "2023-11-14T22:13:20.123+00:00"
    assert lines[0]["event"] == "request"


def test_lines_beyond_what_may_wait_are_dropped_and_counted() -> None:
    lines = logged("""
async def main():
    dropped = Counter()
    lines = RequestLog("worker-0", dropped, style="json")
    for number in range(20_010):
        lines.note({"at_ms": 0})
    await lines.close()
    log.info("told", dropped=dropped.value)
asyncio.run(main())
""")
    assert len(lines) == 20_001
    assert lines[-1]["dropped"] == 10
