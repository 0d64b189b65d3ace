"""What a guest may reach: the policy's rule `network`, one line of text, and what it means to the network process.

`none`, `all`, or entries with spaces between them: a name (`www.example.org`), all names below one (`*.example.org`), an address
(`192.0.2.7`) or a range (`10.20.0.0/16`), each perhaps with ports behind a colon (`:443`, `:80,443`, `:8000-8080`). A name of one
word is written with a dot at its end (`intranet.`), so that a misspelt word is not taken for one.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from twofold.model.errors import BadInputError

NONE, ALL = "none", "all"
_LONGEST, _MOST = 1 << 15, 1024  # characters, entries
_NAME = re.compile(r"(\*\.)?(?:[a-z0-9_-]{1,63}\.)+(?:[a-z0-9_-]{1,63})?")
_NUMBERS = re.compile(r"[0-9./]+")


def reach(untrusted_text: str) -> dict[str, Any]:
    """The document that the network process takes (docs/protocol.md, chapter 6).

    Raises:
        BadInputError: a word of it is not understood, or words contradict each other; nothing of it is to be believed then.
    """
    words = untrusted_text.split(" ")
    if untrusted_text in (NONE, ALL):
        return {"mode": untrusted_text}
    if len(untrusted_text) > _LONGEST or len(words) > _MOST:
        raise _refused(f"it has more than {_MOST} entries or {_LONGEST} characters")
    names, ranges = [], []
    for word in words:
        if word in (NONE, ALL):
            raise _refused(f"'{word}' stands alone or not at all")
        place, colon, text = word.partition(":")
        ports = _ports(word, text) if colon else []
        if _NUMBERS.fullmatch(place):
            ranges.append(_range(word, place) | {"ports": ports})
        elif _NAME.fullmatch(place) and len(place) <= 253 and not place.rstrip(".").rpartition(".")[2].isdecimal():
            names.append({"name": place.rstrip("."), "ports": ports})
        else:
            raise _refused(
                f"{word!a:.80} is no name (in small letters, with a dot), no IPv4 address and no range of them"
            )
    return {"mode": "listed", "names": names, "ranges": ranges}


def _range(word: str, place: str) -> dict[str, Any]:
    try:
        network = ipaddress.IPv4Network(place)
    except ValueError as wrong:
        raise _refused(f"{word!a:.80} is no range of addresses ({wrong})") from wrong
    return {"net": str(network.network_address), "bits": network.prefixlen}


def _ports(word: str, text: str) -> list[list[int]]:
    found: list[list[int]] = []
    for each in text.split(","):
        match = re.fullmatch(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", each)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < low <= high < 1 << 16 or len(found) == 64:
            raise _refused(f"{word!a:.80} has no good ports behind its colon")
        found.append([low, high])
    return found


def _refused(why: str) -> BadInputError:
    return BadInputError(
        f"The policy's rule network cannot be read: {why}.",
        safe="Nothing was changed.",
        next="Write none, all, or names and addresses such as:  www.example.org *.example.net:443 10.20.0.0/16",
    )
