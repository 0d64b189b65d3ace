"""What a network manager says of a network that is paid for by volume. The text is of `nmcli --terse` 1.42."""

from __future__ import annotations

import pytest

from twofold.platform.network import any_metered

WIFI = "GENERAL.STATE:100 (connected)\nGENERAL.METERED:{}\n\n"
OFF = "GENERAL.STATE:30 (disconnected)\nGENERAL.METERED:{}\n\n"


@pytest.mark.parametrize(
    ("said", "metered"),
    [
        (WIFI.format("yes"), True),
        (WIFI.format("yes (guessed)"), True),
        (WIFI.format("no (guessed)"), False),
        (WIFI.format("unknown"), False),
        (OFF.format("yes") + WIFI.format("no"), False),
        (OFF.format("no") + WIFI.format("yes"), True),
        ("", False),
        ("GENERAL.METERED:yes\n", False),
    ],
)
def test_a_connected_device_that_is_metered_counts(said: str, metered: bool) -> None:
    assert any_metered(said) is metered
