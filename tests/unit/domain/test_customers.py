import pytest

from gateway.domain.customers import Purpose, customer_of, wallet_id


@pytest.mark.parametrize("purpose", ["live", "test", "shadow"])
def test_wallet_names_its_customer_and_purpose(purpose: Purpose) -> None:
    assert customer_of(wallet_id("acme", purpose)) == ("acme", purpose)


def test_the_live_wallet_has_the_customers_id() -> None:
    assert wallet_id("acme", "live") == "acme"
