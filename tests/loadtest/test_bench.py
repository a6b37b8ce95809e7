"""The first benchmark: which samples it believes, what it judges, and a short run for real."""

import dataclasses
import io
import os
from pathlib import Path

import httpx
import pytest
import redis
from rich.console import Console

from loadtest import bench, bench_report, children, measure, nginx
from loadtest.bench_report import Report
from loadtest.gate import GATE_COMMAND
from loadtest.measure import Sample
from loadtest.tls import TlsFiles
from tests.upstreams import tls_files

__all__ = ["tls_files"]

SAMPLE = Sample(
    good=100,
    bad=0,
    per_second=50.0,
    cpu_us=100.0,
    other_cpu_us=0.0,
    redis_us=40.0,
    scripts_us=30.0,
    p50_ms=1.0,
    p99_ms=2.0,
    first_byte_p50_ms=1.0,
    foreign_share=0.0,
)
JSON_32 = bench.CELLS[0]
JSON_256 = bench.CELLS[1]


def sampled(cpu_us: float, foreign_share: float = 0.0, redis_us: float = 40.0) -> Sample:
    return dataclasses.replace(
        SAMPLE, cpu_us=cpu_us, foreign_share=foreign_share, redis_us=redis_us
    )


def test_noisy_samples_are_left_out_while_enough_are_quiet() -> None:
    samples = [sampled(1), sampled(2), sampled(3), sampled(99, 0.5)]
    assert measure.quiet(samples) == (samples[:3], True)


def test_with_too_few_quiet_ones_the_quietest_third_counts_and_is_called_noisy() -> None:
    samples = [sampled(9, 0.9), sampled(1, 0.2), sampled(8, 0.8)]
    assert measure.quiet(samples) == ([samples[1]], False)


def test_figures_judge_the_ratio_to_plain_nginx_and_the_pair_in_redis() -> None:
    samples = {
        (JSON_32.name, "nginx"): [sampled(20)],
        (JSON_32.name, "gate"): [sampled(100)],
        (JSON_256.name, "nginx"): [sampled(20)],
        (JSON_256.name, "gate"): [sampled(100, redis_us=60)],
    }
    report = Report([JSON_32, JSON_256], ["nginx", "gate"], samples)
    judged = [(figure.value, figure.verdict) for figure in report.figures()]
    assert judged == [(5.0, "must met"), (5.0, "missed"), (60.0, "must met")]


def test_without_nginx_there_is_no_ratio_and_the_report_still_shows() -> None:
    report = Report([JSON_32], ["direct", "gate"], {(JSON_32.name, "gate"): [SAMPLE]})
    assert report.figures() == []
    console = Console(width=bench_report.WIDTH, record=True, file=io.StringIO())
    bench_report.show(report, console)
    assert JSON_32.name in console.export_text()
    assert report.as_json()["cells"][1]["medians"]["cpu_us"] == 100.0


def test_cpu_of_a_process_is_counted_and_a_dead_one_is_not(valkey_socket: Path) -> None:
    assert measure.cpu_s([os.getpid()]) > 0
    assert measure.cpu_s([2**22 - 1]) == 0
    with redis.Redis(unix_socket_path=str(valkey_socket)) as client:
        before = measure.redis_cost(client)
        script = client.script_load("for i = 1, 200000 do end return 1")
        client.evalsha(script, 0)
        spent = measure.redis_cost(client).since(before)
    assert spent.script_calls == 1
    assert spent.script_s > 0


@pytest.mark.debian
def test_nginx_proxies_to_plain_and_tls_upstreams(tmp_path: Path, tls_files: TlsFiles) -> None:
    with children.provider() as plain, children.provider(tls_files) as secure:
        upstreams = {
            "plain": nginx.Upstream(plain.url),
            "tls": nginx.Upstream(secure.url, tls_files.authority),
        }
        with nginx.running(tmp_path / "nginx", upstreams) as proxy:
            for name in upstreams:
                for streams in (False, True):
                    answer = httpx.get(proxy.url(name, streams=streams) + "/v1/models")
                    assert answer.status_code == 200
            assert len(proxy.pids()) == 2
        with pytest.raises(httpx.ConnectError):
            httpx.get(proxy.url("plain", streams=False))


@pytest.mark.slow
async def test_a_short_run_measures_the_gate_beside_its_peers(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with bench.set_up(tmp_path, GATE_COMMAND, 0.3, console) as running:
        report = await bench.measure(running, bench.CELLS[:1], 1, console)
    [sample] = report.samples[JSON_32.name, "gate"]
    assert sample.good > 0
    assert sample.bad == 0
    assert sample.cpu_us > 0
    assert sample.redis_us > 0
