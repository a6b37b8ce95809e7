"""What failed at an upstream is in the log line, on the event, in the metric and in `why`."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.events import Event
from tests.support.gate import Gate, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim, sim, sim_tls, tls_files
from tests.unit.cli.desk import Desk

__all__ = ["sim", "sim_tls", "tls_files"]

SHORT = {"connect_ms": 5_000, "head_ms": 300, "between_bytes_ms": 300}
HANG = {"timeouts": SHORT}


async def failed(
    tmp_path: Path,
    valkey_socket: Path,
    url: str,
    capfd: pytest.CaptureFixture[str],
    content: str = "hi",
    **upstream: Any,
) -> tuple[int, Event, dict[str, Any], str, str]:
    """Status, event, log line, cause counted by the metric, and what `why` says, of one request."""
    upstreams = {"sim": {"base_url": url, **upstream}}
    async with running_gate(tmp_path, valkey_socket, url, upstreams=upstreams) as gate:
        stream = "after" in content or "cut" in content
        answer = await gate.chat(content, stream=stream)
        event = await gate.one_event()
        explained = await Desk(tmp_path / "gateway.yaml").run("why", event.facts["request_id"])
        [(labels, count)] = gate.service.snapshot()["creditgate_upstream_failures_total"]["samples"]
        assert count == 1
        line = await logged(gate, capfd)
    return answer.status_code, event, line, labels[1], explained.out


async def logged(gate: Gate, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The log line of the gate's first POST."""
    said = ""

    def has_come() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return '"method":"POST"' in said

    await until(has_come)
    [line] = [json.loads(row) for row in said.splitlines() if '"method":"POST"' in row]
    assert line["event"] == "request"
    return dict(line)


@pytest.mark.parametrize(
    ("url", "content", "upstream", "cause", "status", "words"),
    [
        ("http://127.0.0.1:9", "hi", {}, "refused", 502, "ECONNREFUSED"),
        ("http://localhost:9", "hi", {}, "refused", 502, "ECONNREFUSED"),
        ("http://no-such-host.invalid", "hi", {}, "dns", 502, "EAI_"),
        ("https://PLAIN", "hi", {}, "tls", 502, "TLS handshake"),
        ("TLS", "hi", {}, "tls", 502, "CERTIFICATE_VERIFY_FAILED"),
        ("SIM", "hi\nsim: hang=before_head", HANG, "timeout", 504, "before its head"),
        ("SIM", "hi\nsim: rst=before_head", {}, "reset", 502, "before it responded"),
        ("SIM", "hi\nsim: rst=after_head", {}, "reset", 200, "in the middle"),
        ("SIM", "hi\nsim: tokens=9 cut=5 cut_how=rst", {}, "reset", 200, "in the middle"),
        ("SIM", "hi\nsim: tokens=9 cut=5 cut_how=fin", {}, "closed", 200, "in the middle"),
        ("SIM", "hi\nsim: hang=after_head", HANG, "timeout", 200, "between bytes"),
    ],
)
async def test_it_is_said_everywhere_what_failed(
    tmp_path: Path,
    valkey_socket: Path,
    sim: Sim,
    sim_tls: Sim,
    capfd: pytest.CaptureFixture[str],
    url: str,
    content: str,
    upstream: dict[str, Any],
    cause: str,
    status: int,
    words: str,
) -> None:
    plain = sim.url.removeprefix("http://")
    url = url.replace("SIM", sim.url).replace("TLS", sim_tls.url).replace("PLAIN", plain)
    got, event, line, counted, explained = await failed(
        tmp_path, valkey_socket, url, capfd, content, **upstream
    )
    assert got == status
    assert event.facts["upstream_error"] == cause
    assert counted == cause
    assert words in line["upstream_error"]
    assert f"upstream error {cause}" in explained
    if status != 200:
        assert line["reason"] == f"upstream_{cause}"
