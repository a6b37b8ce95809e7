"""What a scenario came to, as tables."""

from typing import Final

from rich.console import Console
from rich.table import Table

from loadtest.failover.scenario import Run

_COUNTS: Final = ("503", "shards repaired", "losses")


def show(run: Run, console: Console) -> None:
    """The load, the steps, the losses, the verdict."""
    result = run.result
    statuses = ", ".join(f"{n:,} × {status}" for status, n in sorted(result.statuses.items()))
    console.print(
        f"{result.sent:,} requests in {result.seconds:.0f} s: {statuses}", highlight=False
    )
    steps = Table("step", title="seconds of each step, and what it cost")
    for column in ("switch", "all served", "nobody admitted", "somebody not", *_COUNTS):
        steps.add_column(column, justify="right")
    checked = run.checked
    for each in run.played:
        lost = sum(loss.cause == each.title for loss in checked.losses)
        steps.add_row(
            each.title,
            f"{each.change_s:.1f}",
            f"{each.whole_s:.1f}",
            f"{each.nobody_s:.1f}",
            f"{each.somebody_not_s:.1f}",
            f"{each.refused:,}",
            f"{len(each.repaired)}",
            f"{lost}",
        )
    console.print(steps)
    if checked.losses:
        losses = Table("lost: request", "tokens served", "charged", "around")
        for loss in checked.losses:
            figures = f"{loss.served_tokens}", f"{loss.charged_tokens}"
            losses.add_row(loss.request_id, *figures, loss.cause)
        console.print(losses)
    console.print(
        f"{checked.requests:,} requests reached the provider, which served"
        f" {checked.served_tokens:,} output tokens; {checked.charged_tokens:,} were charged,"
        f" {sum(each.served_tokens - each.charged_tokens for each in checked.losses):,} lost.",
        highlight=False,
    )
    console.print(checked.verified, highlight=False, markup=False)
    for sentence in checked.wrong:
        console.print(sentence, style="red", highlight=False, markup=False)
    verdict = "All identities hold." if checked.good else "The run failed."
    console.print(verdict, style="green" if checked.good else "bold red")
