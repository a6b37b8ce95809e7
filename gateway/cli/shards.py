"""`shards`: where each shard of the ledger lives, and moving slots so that a cluster's load is even."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from gateway.app.backend import open_backend
from gateway.app.ledger_nodes import open_nodes
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, read_settings
from gateway.cli.output import AsJson, err, fail, out, plain, print_json, progress, row, table
from gateway.cli.parameters import Reason
from gateway.ledger.nodes import LedgerNodes
from gateway.operations.balance import (
    WAYS,
    Balance,
    apply_balance,
    balance_document,
    finish_open,
    plan_balance,
)
from gateway.operations.shard_places import (
    Measure,
    Places,
    ShardPlace,
    find_places,
    places_document,
)
from gateway.settings import Settings

T = TypeVar("T")

shards = typer.Typer(help="Where the ledger's shards live, and moving them within a cluster.")
app.add_typer(shards, name="shards", no_args_is_help=True)

Seconds = Annotated[
    float, typer.Option("--seconds", min=0, help="How long to measure entries per second.")
]
_UNITS: dict[Measure, str] = {"rate": "entries/s", "memory": "memory", "count": "shards"}


@shards.command()
def show(
    all_: Annotated[bool, typer.Option("--all", "-a", help="List every shard.")] = False,
    seconds: Seconds = 2.0,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show each node's shards, entries per second, memory and undelivered entries; exit 1 if one is away.

    An entry is a charge, a release, or another change of a wallet. Works on a single server too.
    """

    async def work(nodes: LedgerNodes) -> Places:
        with progress(shown=err.is_terminal and not as_json) as report:
            return await find_places(nodes, seconds, report)

    places = _on_nodes(read_settings(config), work)
    if as_json:
        print_json(places_document(places))
    else:
        _print_places(places, every=all_)
    if any(each.state == "away" for each in places.shards):
        raise typer.Exit(1)


@shards.command(name="balance")
def balance_command(
    by: Annotated[
        Measure, typer.Option("--by", help="What should be even: entries, bytes or shards.")
    ] = "rate",
    apply: Annotated[
        bool, typer.Option("--apply", help="Move the slots; without it they are only listed.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, max=100, help="Move nothing while every node is this near the mean, in %."
        ),
    ] = 10.0,
    seconds: Seconds = 10.0,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Plan which slots should move so that a cluster's nodes have even loads; move them with --apply.

    Only slots with keys of this ledger move, by the cluster's own resharding, while gates run. An
    interrupted run is completed by repeating it.
    """
    if by == "rate" and not seconds:
        raise typer.BadParameter("--by rate needs a time to measure in: --seconds 10")
    settings = read_settings(config)

    async def work(nodes: LedgerNodes) -> tuple[Balance, int]:
        with progress(shown=err.is_terminal and not as_json) as report:
            finished = await finish_open(nodes, report) if apply else []
            balance = await plan_balance(nodes, by, tolerance / 100, seconds, report)
            if apply and balance.plan.moves:
                async with open_backend(settings) as backend:
                    await apply_balance(backend, nodes, balance, report, reason)
            return balance, sum(len(move.slots) for move in finished)

    try:
        balance, finished = _on_nodes(settings, work)
    except KeyboardInterrupt:
        raise fail(
            "Interrupted. Run this again: it goes on from where the servers are.", 130
        ) from None
    if as_json:
        print_json(balance_document(balance, applied=apply, finished=finished))
    else:
        _print_balance(balance, applied=apply, finished=finished)


def _on_nodes(settings: Settings, work: Callable[[LedgerNodes], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_nodes(settings) as nodes:
            return await work(nodes)

    with explained():
        return asyncio.run(run())


def _print_places(places: Places, *, every: bool) -> None:
    numbers = ("shards", "entries/s", "memory", "backlog")
    shown = table("node", *numbers, "state", right=numbers, whole=["node"])
    for node in places.nodes:
        count = f"{node.shards} + global" if node.has_global_keys else str(node.shards)
        if node.away:
            row(shown, (node.name, count, "–", "–", "–", "away"), "red")
            continue
        rate = _rate(node.milli_rate) if places.seconds else "–"
        memory = "–" if node.memory_bytes is None else _bytes(node.memory_bytes)
        row(shown, (node.name, count, rate, memory, node.backlog, ""))
    out.print(shown)
    if len(places.nodes) > 1:
        ratios = [
            f"{ratio:.2f} by {_UNITS[measure]}"
            for measure in _UNITS
            if (ratio := places.imbalance(measure)) is not None
        ]
        out.print(plain(f"Busiest node over the mean: {', '.join(ratios)}."))
    if every:
        out.print()
        _print_shards(places)
    for note in places.notes:
        out.print(plain(note, "yellow" if note.startswith("Away") else "dim"))


def _print_shards(places: Places) -> None:
    numbers = ("shard", "slot", "entries/s", "memory", "backlog")
    shown = table("shard", "slot", "node", *numbers[2:], "state", right=numbers, whole=["node"])
    for each in places.shards:
        row(shown, _shard_cells(each), "" if each.state == "open" else "red")
    out.print(shown)


def _shard_cells(each: ShardPlace) -> tuple[Any, ...]:
    return (
        "global" if each.number is None else each.number,
        "–" if each.slot is None else each.slot,
        each.node,
        "–" if each.milli_rate is None else _rate(each.milli_rate),
        "–" if each.memory_bytes is None else _bytes(each.memory_bytes),
        "–" if each.backlog is None else each.backlog,
        each.state,
    )


def _print_balance(balance: Balance, *, applied: bool, finished: int) -> None:
    plan, by = balance.plan, balance.by
    if finished:
        out.print(
            plain(f"Finished {finished} slots that an interrupted run had left on their way.")
        )
    for move in balance.unfinished:
        slots = ", ".join(map(str, move.slots))
        out.print(plain(f"Left on its way by an interrupted run: slot {slots}.", "yellow"))
    if not plan.moves:
        ratio = plan.imbalance(plan.before)
        if ratio is None:
            said = f"No load to balance by {_UNITS[by]}: try `--by count`."
        else:
            said = (
                f"Nothing to move: the busiest node has {ratio:.2f} times the mean by {_UNITS[by]}."
            )
        out.print(plain(said))
    else:
        _print_moves(balance)
    for note in balance.places.notes:
        out.print(plain(note, "dim"))
    if plan.moves and applied:
        out.print(plain(f"Moved {len(plan.moves)} slots.", "bold green"))
    elif plan.moves or balance.unfinished:
        out.print(plain(WAYS[balance.way]))
        out.print(plain("Nothing was moved: add --apply to move them.", "bold"))


def _print_moves(balance: Balance) -> None:
    plan, unit = balance.plan, _UNITS[balance.by]
    moves = table("slot", "shards", "from", "to", unit, right=["slot", unit], whole=["from", "to"])
    for move in plan.moves:
        held = [
            "global" if each.number is None else str(each.number)
            for each in balance.places.shards
            if each.slot == move.slot
        ]
        load = _load(balance.by, move.load)
        row(moves, (move.slot, ", ".join(held), move.source, move.target, load))
    out.print(moves)
    out.print()
    nodes = table("node", "before", "after", right=["before", "after"], whole=["node"])
    for name, before in plan.before.items():
        row(nodes, (name, _load(balance.by, before), _load(balance.by, plan.after[name])))
    out.print(nodes)
    ratios = plan.imbalance(plan.before), plan.imbalance(plan.after)
    out.print(plain("Busiest node over the mean: {:.2f} before, {:.2f} after.".format(*ratios)))


def _load(by: Measure, load: int) -> str:
    return _rate(load) if by == "rate" else _bytes(load) if by == "memory" else str(load)


def _rate(milli_rate: int) -> str:
    return f"{milli_rate / 1000:,.1f}"


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
