"""Whether the network here is paid for by volume, as far as the machine's own network manager knows."""

from __future__ import annotations

from twofold.model.errors import TwofoldError
from twofold.platform.run import run


def metered() -> bool:
    """False where nobody knows: without NetworkManager there is nobody to ask."""
    try:
        said = run(["nmcli", "--terse", "--fields", "GENERAL.STATE,GENERAL.METERED", "device", "show"], timeout=10)
    except TwofoldError:
        return False
    return any_metered(said.stdout.decode(errors="replace"))


def any_metered(untrusted_text: str) -> bool:
    """Of `nmcli --terse`, a block of two lines for each device: one that is connected is metered, or guessed to be."""
    connected = False
    for line in untrusted_text.splitlines():
        name, _, value = line.partition(":")
        if name == "GENERAL.STATE":
            connected = value.startswith("100")
        elif name == "GENERAL.METERED" and connected and value.startswith("yes"):
            return True
    return False
