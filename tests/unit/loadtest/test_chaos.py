"""What chaos says of a run: which requests a kill may have left uncharged, and how much of each."""

from loadtest.chaos import ChaosReport, Kill
from loadtest.generator import Outcome, Result
from loadtest.served import Row


def row(request_id: str, *, stream: bool, output: int, state: str = "complete") -> Row:
    made = Row(request_id, f"client-{request_id}", 1, "chat", stream=stream, state=state)
    made.output = output
    return made


def test_only_requests_that_ran_at_a_workers_kill_are_exposed() -> None:
    result = Result()
    for name, started_s, ended_s in (("before", 1, 2), ("during", 3, 9), ("json", 4, 6)):
        result.outcomes.append(Outcome(f"client-{name}", 200, "cut", 0, started_s, ended_s))
    served = [
        row("before", stream=True, output=50),
        row("during", stream=True, output=50, state="broken"),
        row("json", stream=False, output=40),
        row("gone", stream=True, output=30, state="broken"),
    ]
    kills = [Kill(1.5, "exporter-0", 1), Kill(5.0, "worker-0", 2)]
    report = ChaosReport(kills, result, served, checkpoint_tokens=10, waited_s=0)
    assert report.exposed() == {"during", "json"}
    assert report.most_uncharged_tokens() == {"during": 10, "json": 40, "gone": 16}
    charged = {"before": 50, "during": 44, "json": 0, "gone": 31}
    assert report.uncharged(charged) == {"during": 6, "json": 40, "gone": -1}
