"""Which mode is in force for whom."""

import pytest

from gateway.domain.customers import Mode, is_shadow, owner_of, wallet_id
from gateway.domain.modes import CONFIGURED, Modes, SetMode


def set_to(mode: Mode, switch: str = "s1") -> SetMode:
    return SetMode(mode, switch, 1, "command:ann", "a drill")


def test_what_is_set_counts_more_than_the_configuration_and_a_customer_more_than_everything() -> (
    None
):
    modes = Modes("shadow", {"acme": "enforce", "zeta": "enforce"})
    assert modes.of("acme") == ("enforce", CONFIGURED)
    assert modes.of("other") == ("shadow", CONFIGURED)
    everything = Modes("shadow", {"acme": "enforce"}, set_to("bypass"))
    assert everything.of("acme") == everything.of("other") == ("bypass", "s1")
    own = Modes("shadow", {}, set_to("bypass"), {"acme": set_to("enforce", "s2")})
    assert own.of("acme") == ("enforce", "s2")
    assert own.of("other") == ("bypass", "s1")


@pytest.mark.parametrize("purpose", ["test", "shadow"])
def test_every_wallet_of_a_customer_has_its_mode(purpose: str) -> None:
    modes = Modes(set_customers={"acme": set_to("shadow")})
    wallet = wallet_id("acme", purpose)  # type: ignore[arg-type]
    assert modes.of(wallet)[0] == "shadow"
    assert modes.of(wallet_id(wallet, "shadow"))[0] == "shadow"
    assert modes.of("acmes")[0] == "enforce"


def test_the_shadow_of_a_test_wallet_is_a_shadow_and_belongs_to_the_customer() -> None:
    shadow = wallet_id(wallet_id("acme", "test"), "shadow")
    assert is_shadow(shadow)
    assert not is_shadow(wallet_id("acme", "test"))
    assert owner_of(shadow) == "acme"


@pytest.mark.parametrize(
    ("modes", "enforces"),
    [
        (Modes(), True),
        (Modes("shadow"), False),
        (Modes("shadow", {"acme": "enforce"}), True),
        (Modes("enforce", {}, set_to("bypass")), False),
        (Modes("shadow", {"acme": "enforce"}, set_to("bypass")), False),
        (Modes("shadow", {}, set_to("bypass"), {"acme": set_to("enforce")}), True),
        (Modes("bypass", {}, set_to("enforce")), True),
    ],
)
def test_whether_anybody_is_enforced(modes: Modes, enforces: bool) -> None:
    assert modes.enforces is enforces
