"""Names and colours that people and companies choose, and their rules."""

from __future__ import annotations

import re

from twofold.model.errors import BadInputError

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")

# Overrides and isolates that make a name read otherwise than it is stored (Unicode UAX #9).
_BIDI = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))

# Colours a company may choose from: apart from each other for all common kinds of colour blindness (Okabe & Ito 2008,
# darkened to carry white text at 4.5:1), none of them close to a usual desktop's grey.
PALETTE: dict[str, str] = {
    "blue": "#0b6bb0",
    "vermilion": "#b84a00",
    "green": "#00785a",
    "purple": "#9c4a86",
    "ochre": "#8a6a00",
    "teal": "#17768f",
    "crimson": "#ab2346",
    "indigo": "#5450b8",
}


def slug(untrusted_name: str, what: str) -> str:
    """Validate a machine name: 1 to 40 of a-z, 0-9 and inner hyphens, so that it is safe in a path, a URL and a table."""
    if not _SLUG.fullmatch(untrusted_name):
        raise BadInputError(
            f"{untrusted_name[:60]!r} is not a name for {what}.",
            next="Use 1 to 40 small letters, digits and inner hyphens, for example 'work' or 'acme-mail'.",
        )
    return untrusted_name


def title(untrusted_title: str, what: str) -> str:
    """Validate a name that people read: 1 to 60 printable characters, no control or bidirectional-override characters."""
    text = untrusted_title.strip()
    if not 1 <= len(text) <= 60 or not text.isprintable() or _BIDI.intersection(text):
        raise BadInputError(
            f"{untrusted_title[:60]!r} cannot be shown as {what}.", next="Use 1 to 60 printable characters."
        )
    return text


def colour(untrusted_colour: str) -> str:
    """Validate a workspace colour: a name of `PALETTE`."""
    if untrusted_colour not in PALETTE:
        raise BadInputError(
            f"{untrusted_colour[:40]!r} is not a workspace colour.", next=f"Choose one of: {', '.join(PALETTE)}."
        )
    return untrusted_colour
