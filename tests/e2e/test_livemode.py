"""Test usage is marked on its way from the key to every sink, and billing systems do not get it."""

from typing import Any

import pytest

from gateway.app.stores import store_access
from gateway.domain.stores import RowFilter
from tests.support.billing_standins import CloudEventsStandIn, running
from tests.support.delivering import delivered, exporting
from tests.support.gate import BROKE_KEY, KEY, Serve, digest
from tests.support.until import until


@pytest.mark.parametrize("asked_for", [False, True])
async def test_test_usage_reaches_the_store_marked_and_billing_only_if_asked_for(
    serve: Serve, *, asked_for: bool
) -> None:
    grants = [{"name": "start", "amount": "10.00"}]
    customers = {
        "live": {"grants": grants, "keys": [{"sha256": digest(KEY)}]},
        "trial": {"grants": grants, "keys": [{"sha256": digest(BROKE_KEY)}], "livemode": False},
    }
    async with running(CloudEventsStandIn()) as billing:
        sink: dict[str, Any] = {
            "url": billing.url + billing.path,
            "key": "the-key",
            "test_keys": asked_for,
        }
        export = {"sinks": {"billing": {"http": sink}}}
        async with serve(customers=customers, export=export) as gate, exporting(gate):
            for key in (BROKE_KEY, KEY):  # the test usage first: it would have arrived by then
                body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
                answer = await gate.post(
                    "/v1/chat/completions", body, {"authorization": f"Bearer {key}"}
                )
                assert answer.status_code == 200
                await delivered(gate)

            async def billed() -> bool:
                return len(billing.taken) >= 1 + asked_for

            await until(billed)
            with store_access(gate.settings).open() as store:
                modes = {
                    row.customer_id: row.livemode
                    for row in store.rows(RowFilter(kinds=frozenset({"settle"})))
                }
        assert modes == {"live": True, "trial": False}
        sent = {item["subject"] for item in billing.taken.values()}
        assert sent == ({"live", "trial"} if asked_for else {"live"})
