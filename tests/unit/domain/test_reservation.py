"""The shard of a customer, which never changes."""

from gateway.domain.reservation import SETTLE_MAX_AGE_MS, TOMBSTONE_TTL_MS, shard_of


def test_a_customer_stays_in_its_shard() -> None:
    # Written down: a change would part customers from their wallets.
    assert [shard_of(name, 64) for name in ("acme", "globex", "ümlaut")] == [62, 58, 32]


def test_shards_are_used_evenly() -> None:
    counts = [0] * 16
    for number in range(16_000):
        counts[shard_of(f"customer-{number}", 16)] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


def test_no_settle_is_taken_that_could_miss_its_tombstone() -> None:
    assert SETTLE_MAX_AGE_MS < TOMBSTONE_TTL_MS
