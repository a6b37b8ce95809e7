"""Which samples are believed, and what the meters count."""

import os
from pathlib import Path

import redis

from loadtest import measure
from tests.unit.loadtest.bench.samples import sampled


def test_noisy_samples_are_left_out_while_enough_are_quiet() -> None:
    samples = [sampled(cpu_us=1), sampled(cpu_us=2), sampled(cpu_us=3)]
    assert measure.quiet([*samples, sampled(foreign_share=0.5)]) == (samples, True)


def test_with_too_few_quiet_ones_the_quietest_third_counts_and_is_called_noisy() -> None:
    samples = [sampled(foreign_share=share) for share in (0.9, 0.2, 0.8)]
    assert measure.quiet(samples) == ([samples[1]], False)


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
