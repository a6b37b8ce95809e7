"""Signals as the stamp carries them."""

import pytest

from gateway.domain.signals import Signal, read_signals


def test_the_numbers_of_a_stamp_get_their_names() -> None:
    assert read_signals([["low_balance", 5], ["topup_wanted", 5, 20, 1]]) == (
        Signal("low_balance", {"threshold_nano": 5}),
        Signal("topup_wanted", {"threshold_nano": 5, "amount_nano": 20, "number": 1}),
    )


@pytest.mark.parametrize(
    "stamped", [["low_balance"], ["low_balance", 1, 2], ["low_balance", 1.5], ["unheard_of", 1]]
)
def test_what_is_no_signal_is_refused(stamped: list[object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        read_signals([stamped])


def test_an_id_tells_entries_names_and_thresholds_apart_and_nothing_else() -> None:
    one = Signal("low_balance", {"threshold_nano": 5})
    others = [
        one.id("r2:settled"),
        Signal("recovered", {"threshold_nano": 5}).id("r1:settled"),
        Signal("low_balance", {"threshold_nano": 6}).id("r1:settled"),
    ]
    assert one.id("r1:settled") not in others
    assert one.id("r1:settled") == Signal("low_balance", {"threshold_nano": 5}).id("r1:settled")


def test_an_id_fits_into_a_header_and_has_no_dot() -> None:
    signal_id = Signal("exhausted", {"threshold_nano": 0}).id("ü.\n:settled")
    assert signal_id.replace("_", "").isalnum()
    assert signal_id.isascii()
