"""One granted reservation while its request runs, and its end.

Law: whatever happens between the grant and the end of the request, exactly one settle or
release leaves from here. `Run.resolve` decides which, once, without awaiting; `Settlements`
carries it out in a task of its own, shielded from the client and from the server's clean-up,
and puts in the journal what the ledger does not take now (operations are idempotent by id).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, TypeVar

from msgpack import packb

from gateway.dialects.base import AnswerFacts
from gateway.domain.reservation import Account, Extended, Hold, Settled
from gateway.domain.usage import Usage, UsageSource
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal import Record, Replayed, SettleJournal
from gateway.ledger.operations import Ledger
from gateway.proxy.catalog import Model, Policy
from gateway.proxy.ending import Ending
from gateway.proxy.estimate import Bound

T = TypeVar("T")

NOT_TOKENS: Final = frozenset({"request", "tool_call", "second", "byte", "image"})

ABSURD_FACTOR: Final = 100
"""Reported usage beyond this many times the bound is a fault of the upstream, not a charge."""


class Run:
    """A reservation from grant to settlement.

    The flow notes what it sees (`status`, `flags`, `answered`, `broken`); `resolve` reads it.
    """

    __slots__ = (
        "_extend_no",
        "_extending",
        "_settlements",
        "account",
        "bound",
        "broken",
        "client_gone",
        "cut_at",
        "ended_at",
        "event",
        "extended_at",
        "facts",
        "flags",
        "grow_at",
        "hold",
        "model",
        "policy",
        "resolved",
        "started_at",
        "status",
        "streaming",
    )

    def __init__(
        self,
        settlements: "Settlements",
        account: Account,
        model: Model,
        policy: Policy,
        bound: Bound,
        hold: Hold,
        event: dict[str, Any],
        started_at: float,
    ) -> None:
        self._settlements = settlements
        self.account = account
        self.model = model
        self.policy = policy
        self.bound = bound
        self.hold = hold
        self.event = event
        self.started_at = self.ended_at = started_at
        self.facts = AnswerFacts()
        self.flags: list[str] = []
        self.status = 0
        self.streaming = False
        self.broken = False
        """The upstream broke before its answer was whole."""
        self.client_gone = False
        self.resolved: asyncio.Task[Settled | None] | None = None
        self.extended_at = time.monotonic()
        self._extend_no = 0
        self._extending = False
        self.cut_at: int | None = None
        """Counted output at which the stream is cut, once the credit is exhausted."""
        self.grow_at = self._next_growth()
        settlements.live.add(self)

    # While it runs

    def watch(self) -> bool:
        """After each piece of a stream: grow the hold in time. True when the stream must be cut."""
        counted = self.facts.counted_output
        if counted < self.grow_at:
            return False
        if self.cut_at is not None:
            return counted >= self.cut_at
        self.extend(grow=True)
        return False

    def linger_ms(self, stream: bool) -> int:
        """How long the upstream is listened to once the client has gone."""
        by = self.policy.disconnect_stream if stream else self.policy.disconnect_json
        drains = by == "drain" or self.model.hidden_output
        return self.policy.drain_max_ms if drains else 0

    def extend(self, *, grow: bool = False) -> None:
        """Move deadline and checkpoint, and with `grow` the hold, without stopping the answer."""
        if not self._extending and self.resolved is None:
            self._extending = True
            self._settlements.spawn(self._extend(grow))

    async def _extend(self, grow: bool) -> None:
        bound = self.bound
        before = bound.held_output
        if grow:
            step = self.policy.hold_output_tokens or bound.output
            bound.held_output = min(bound.output, max(before, self.facts.counted_output) + step)
        self._extend_no += 1
        prices = self.model.prices
        try:
            answer = await self._settlements.ledger.extend(
                self.account,
                self.hold.reservation_id,
                prices,
                extend_no=self._extend_no,
                estimate=prices.vector(bound.held_usage(self.model)),
                checkpoint=prices.vector(bound.expiry_usage(self.model, self.policy, self.seen())),
                tokens=bound.tokens,
                ttl_ms=self.policy.hold_ttl_ms,
            )
        except LedgerUnavailable:
            bound.held_output = before  # the next beat tries again; the hold's deadline decides
            return
        finally:
            self._extending = False
            self.extended_at = time.monotonic()
        if not isinstance(answer, Extended):
            return  # it has ended meanwhile (expired, or released by an operator): the settle reconciles
        if grow and not answer.grown:
            self._exhausted(before)
        else:
            self.grow_at = self._next_growth()

    def _exhausted(self, held_output: int) -> None:
        self.bound.held_output = held_output
        self.flags.append("credit_exhausted")
        if self.policy.exhausted_stream == "cut":
            self.grow_at = self.cut_at = held_output
        else:
            self.grow_at = 1 << 62  # finishes into overdraft

    def _next_growth(self) -> int:
        bound = self.bound
        if bound.held_output >= bound.output:
            return 1 << 62
        step = self.policy.hold_output_tokens or bound.held_output
        return bound.held_output - int(step * (1 - self.policy.extend_at))

    # What has been used

    def seen(self) -> Usage:
        """Usage so far, as far as the gate can tell: reported where it is, else counted."""
        reported = self.facts.usage
        if reported is None:
            return self.bound.counted_usage(self.facts.counted_output)
        if self.facts.usage_final:
            return {**reported, "request": 1}
        running = {**reported, "request": 1}
        produced = sum(running.get(unit, 0) for unit in ("output", "reasoning", "audio_output"))
        if self.facts.counted_output > produced:
            running["output"] = running.get("output", 0) + self.facts.counted_output - produced
        return running

    def _final_usage(self) -> tuple[Usage, UsageSource]:
        facts = self.facts
        problem = facts.usage_problem
        if problem is None and facts.usage is not None and self._absurd(facts.usage):
            problem = "usage_absurd"
        if problem is not None:
            self.flags.append("usage_absurd")
            output = min(facts.counted_output, self.bound.held_output)
            return self.bound.counted_usage(output), "estimated"
        if facts.usage is not None and facts.usage_final:
            return self.seen(), "provider_reported"
        if self.client_gone:
            return self._usage_of_the_gone()
        if not self.broken:
            self.flags.append("usage_missing")
            if self.policy.missing_usage == "hold":
                return self.bound.held_usage(self.model), "estimated"
        return self.seen(), "counted"

    def _usage_of_the_gone(self) -> tuple[Usage, UsageSource]:
        """By the route's policy. What has begun to reason unseen is never charged as if it had not."""
        policy = self.policy
        by = policy.disconnect_stream if self.streaming else policy.disconnect_json
        if by == "charge_input":
            return self.bound.counted_usage(0), "counted"
        drained_in_vain = by == "drain" and policy.missing_usage == "hold"
        if by == "charge_hold" or drained_in_vain or self.model.hidden_output:
            return self.bound.held_usage(self.model), "estimated"
        return self.seen(), "counted"

    def _absurd(self, usage: Usage) -> bool:
        most = ABSURD_FACTOR * (self.bound.input + self.bound.output) + 1_000_000
        return sum(usage.values()) > most

    # The end

    def resolve(self) -> asyncio.Task[Settled | None]:
        """End the reservation: settle what was used, or release it all. Idempotent, immediate.

        Nothing received from the upstream, or a failure of its own without usage and before any
        of its answer could be passed on, is a release.
        """
        if self.resolved is not None:
            return self.resolved
        self._settlements.live.discard(self)
        self.ended_at = time.monotonic()
        event = self.event
        event["http_status"] = self.status or None
        facts = self.facts
        event["finish_reason"] = facts.finish_reason
        event["response_model"] = facts.response_model
        event["duration_ms"] = int((self.ended_at - self.started_at) * 1000)
        failed = self.status >= 400 or self.broken or facts.error
        if self.status == 0:
            failed = not self.client_gone  # who leaves before the head has still been served
        delivered = self.streaming and facts.counted_output > 0
        if failed and facts.usage is None and not delivered:
            event["usage_source"] = None
            ending = self._settlements.release(self)
        else:
            usage, event["usage_source"] = self._final_usage()
            ending = self._settlements.settle(self, usage)
        self.resolved = self._settlements.spawn(ending)
        return self.resolved

    async def settled_within(self, wait_s: float) -> Settled | None:
        """End now and wait for the ledger's answer, a bounded time; None when it takes longer."""
        task = self.resolve()
        await asyncio.wait((task,), timeout=wait_s)
        return task.result() if task.done() else None


class Settlements:
    """Carries out endings and extends; keeps the holds of running requests alive."""

    def __init__(
        self,
        ledger: Ledger,
        journal: SettleJournal,
        observe: Callable[[Run, Settled], None],
    ) -> None:
        """observe: called with each ending that the ledger has taken (metrics, log, nothing slow)."""
        self.ledger = ledger
        self.journal = journal
        self.live: set[Run] = set()
        self._observe = observe
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in a task that is strongly referenced until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self, run: Run, usage: Usage) -> Settled | None:
        """Charge what was used; None when the ledger did not take it and the journal did."""
        tokens = sum(q for unit, q in usage.items() if unit not in NOT_TOKENS)
        return await self._end(run, "settle", run.model.prices.vector(usage), tokens)

    def abandon(self, account: Account, reservation_id: str, facts: bytes) -> None:
        """A reserve whose outcome is unknown: release it by id, so that no hold leaks."""
        ending = Ending(
            verb="release",
            reservation_id=reservation_id,
            account=account,
            rows=b"",
            cost_rows=b"",
            used=b"",
            tokens=0,
            reserved_at_ms=0,
            facts=facts,
        )
        self.spawn(self._send(ending))

    async def release(self, run: Run) -> Settled | None:
        """Give all of the hold back."""
        return await self._end(run, "release", b"", 0)

    async def _end(
        self, run: Run, verb: Literal["settle", "release"], used: bytes, tokens: int
    ) -> Settled | None:
        run.event["flags"] = run.flags
        ending = Ending(
            verb=verb,
            reservation_id=run.hold.reservation_id,
            account=run.account,
            rows=run.model.prices.rows,
            cost_rows=run.model.prices.cost_rows,
            used=used,
            tokens=tokens,
            reserved_at_ms=run.hold.reserved_at_ms,
            facts=packb(run.event),
        )
        settled = await self._send(ending)
        if settled is not None:
            self._observe(run, settled)
        return settled

    async def _send(self, ending: Ending) -> Settled | None:
        try:
            return await ending.send(self.ledger)
        except LedgerUnavailable:
            await self.journal.append(ending.as_record())
            return None

    async def replay_journal(self) -> Replayed:
        """Deliver what waits in this worker's journal, until the ledger fails again."""
        return await self.journal.replay(self.replay_one)

    async def replay_one(self, record: Record) -> None:
        """Deliver one record, of this worker's journal or of a dead one's. Raises LedgerUnavailable."""
        await Ending.from_record(record).send(self.ledger)

    async def drain(self, grace_s: float) -> None:
        """Wait until every ending has been taken by the ledger or by the journal."""
        deadline = time.monotonic() + grace_s
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)


async def keep_alive(settlements: Settlements, beat_s: float = 0.5) -> None:
    """Extend the holds of running requests, each at its policy's interval. Runs until cancelled."""
    while True:
        await asyncio.sleep(beat_s)
        now = time.monotonic()
        for run in tuple(settlements.live):
            if (now - run.extended_at) * 1000 >= run.policy.checkpoint_interval_ms:
                run.extend()
