"""Reports of load tests on a simulated provider, one run each for all tests that only read them."""

import pytest_asyncio

from loadtest.tester.report import Report
from tests.support.upstreams import sim_provider

from .plans import plan_for, report_of


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plain() -> Report:
    """20 requests at a constant rate, no streams; the first of its targets was missed."""
    async with sim_provider() as sim:
        return await report_of(
            plan_for(
                sim.url,
                rate=20,
                arrivals="constant",
                duration="1s",
                targets=["p99<1us", "errors<1%"],
            )
        )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def whole() -> Report:
    """Streams and whole answers through the gate and direct, at a rate of 60; all targets were met."""
    async with sim_provider() as sim:
        return await report_of(
            plan_for(
                sim.url,
                rate=60,
                direct={"url": sim.url},
                requests={"stream": "0.5"},
                targets=["p99<10s", "errors<1%"],
            )
        )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stepped() -> Report:
    """Two rates, one after the other; its target was missed."""
    async with sim_provider() as sim:
        return await report_of(plan_for(sim.url, steps=["20", "40"], targets=["p50<1us"]))
