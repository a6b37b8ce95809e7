"""The straight path of reserve and settle answers what is plain, up to its boundaries, and nothing else.

Each script is cut behind its straight path: what falls through answers `general`.
"""

import struct
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.ledger.client import scripts
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import Prelude, Script, load_scripts, read_prelude
from tests.ledger.raw import NAMES, Raw, limit, vector

SETTLED_AT = 64
"""Byte of an account's record (`lua/README.md`)."""


class Straight(Raw):
    """Calls whose general path answers `general`."""

    async def straight(self, verb: str, rid: str = "r1", /, **changed: Any) -> list[Any]:
        folder = scripts.lua_folder()  # asked of the module: `make mutants` puts mutants there
        source = (folder / f"{verb}.lua").read_text().partition("-- general\n")[0]
        text = Prelude(read_prelude(folder)).link(source + "return { 'general' }\n").encode()
        sha = (await self.client.script_load(text)).encode()
        keys = [NAMES[name] for name in ("due", "out", "shard", "account")]
        call = Script(verb, text, sha), [*keys, b"{cg:0}:r:" + rid.encode()[:99]]
        reply = await RedisRunner(self.client).run(*call, self._args(verb, rid, changed))
        return [word.decode() if isinstance(word, bytes) else word for word in reply]


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Straight:
    raw = Straight(valkey)
    await raw.open()
    return raw


@pytest.mark.parametrize(
    "said",
    [{}, {"estimate": vector(1000, 0)}, {"backlog": 5}, {"cost_rows": Raw.ROWS}, {"facts": b""}],
)
async def test_a_plain_reserve_goes_straight(raw: Straight, said: dict[str, Any]) -> None:
    assert (await raw.straight("reserve", **said))[0] == "held"


async def test_an_id_of_the_greatest_length_goes_straight(raw: Straight) -> None:
    assert (await raw.straight("reserve", "r" * 200))[0] == "held"
    assert await raw.straight("reserve", "r" * 201) == ["general"]


@pytest.mark.parametrize(
    "said",
    [
        {"estimate": vector(1001, 0)}, {"estimate": vector(0, 0)}, {"backlog": 1}, {"rev": 2},
        {"epoch": 2}, {"count": 9, "epoch": 1}, {"limits": limit()}, {"tokens": -1}, {"ttl": 0},
        {"tokens": 0.5}, {"price_rows": b""}, {"now": -1},
    ],
)  # fmt: skip
async def test_what_is_not_plain_falls_through(raw: Straight, said: dict[str, Any]) -> None:
    assert await raw.straight("reserve", **said) == ["general"]


async def test_a_settle_without_an_id_falls_through(raw: Straight) -> None:
    assert (await raw("reserve"))[0] == "held"
    await raw.client.copy("{cg:0}:r:r1", "{cg:0}:r:")
    assert await raw.straight("settle", "") == ["general"]


@pytest.mark.parametrize("units", [1, 99, 100])
async def test_a_settle_that_its_hold_covers_goes_straight(raw: Straight, units: int) -> None:
    assert (await raw("reserve"))[0] == "held"
    assert (await raw.straight("settle", used=vector(units, 0)))[:2] == ["settled", units]


async def test_a_grant_that_expires_goes_straight_until_then(valkey: redis.asyncio.Redis) -> None:
    raw = Straight(valkey)
    await raw.open(amount=0)
    expires_at = raw.now + 1000
    assert (await raw("grant", id="g1", amount=1000, expires_at=expires_at))[0] == "granted"
    assert (await raw.straight("reserve"))[0] == "held"
    assert await raw.straight("settle", now=expires_at) == ["general"]
    assert (await raw.straight("settle", now=expires_at - 1))[0] == "settled"


@pytest.mark.parametrize("said", [{"used": vector(101, 0)}, {"used": vector(0, 0)}, {"epoch": 2}])
async def test_a_settle_beyond_its_hold_falls_through(raw: Straight, said: dict[str, Any]) -> None:
    assert (await raw("reserve"))[0] == "held"
    assert await raw.straight("settle", **said) == ["general"]


def test_two_scripts_have_a_straight_path() -> None:
    have = {
        name
        for name in load_scripts()
        if "\n-- general\n" in (scripts.lua_folder() / f"{name}.lua").read_text()
    }
    assert have == {"reserve", "settle"}


@pytest.mark.parametrize("verb", ["reserve", "settle"])
@pytest.mark.parametrize("name", ["epoch", "count"])
async def test_a_watermark_below_zero_is_not_straight(raw: Straight, verb: str, name: str) -> None:
    if verb == "settle":
        await raw("reserve")
    assert await raw.straight(verb, **{name: -1}) == ["general"]
    assert await raw(verb, **{name: -1}) == ["bad_arguments"]
    assert (await raw.straight(verb))[0] in ("held", "settled")


async def test_a_settle_goes_straight_up_to_the_greatest_total(raw: Straight) -> None:
    assert (await raw("reserve"))[0] == "held"

    async def settled_before(nano: int) -> None:
        await raw.client.setrange(NAMES["account"], SETTLED_AT, struct.pack("<d", nano))

    await settled_before(MAX_AMOUNT_NANO - 39)
    assert await raw.straight("settle", used=vector(40, 0)) == ["general"]
    assert await raw("settle", used=vector(40, 0)) == ["total_too_large"]
    await settled_before(MAX_AMOUNT_NANO - 40)
    assert (await raw.straight("settle", used=vector(40, 0)))[:2] == ["settled", 40]
