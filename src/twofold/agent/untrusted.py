"""What a guest may say, field by field. Each check takes an untrusted value and returns a plain one, or raises `Malformed`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

MAX_APPS = 512
MAX_WINDOWS = 256
MAX_ICON = 65_536
MAX_PIXELS = 256
MAX_DUE = 7 * 86400  # seconds ahead for which a guest may name something
_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[0-9a-f]{1,64}")
_FIELD = re.compile("text|digits|number|phone|url|email|name|password|pin|terminal")
_WORD = re.compile(r"[a-z0-9.-]{1,64}")


class Malformed(ValueError):  # noqa: N818 - what the guest said, not what we did
    """The guest said something that the protocol does not allow."""


def _pick(untrusted_value: object, fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """The named fields of an object, each checked; what else it holds is left behind."""
    if not isinstance(untrusted_value, dict):
        raise Malformed("not an object")
    try:
        return {name: check(untrusted_value[name]) for name, check in fields.items()}
    except KeyError as missing:
        raise Malformed(f"no {missing}") from None


def _text(limit: int, least: int = 0) -> Callable[[object], str]:
    def check(untrusted_text: object) -> str:
        # isprintable() refuses control characters and the ones that turn the reading direction round.
        if (
            type(untrusted_text) is not str
            or not least <= len(untrusted_text) <= limit
            or not untrusted_text.isprintable()
        ):
            raise Malformed("not short printable text")
        return untrusted_text

    return check


def _plain(limit: int) -> Callable[[object], str]:
    """Text for a person's eyes from a program that nobody knows. A letter that is not printable here, one that the guest's newer
    Unicode has for instance, is no offence: it becomes a space."""

    def check(untrusted_text: object) -> str:
        if type(untrusted_text) is not str or len(untrusted_text) > limit:
            raise Malformed("not short text")
        return "".join(letter if letter.isprintable() else " " for letter in untrusted_text).strip()

    return check


def _match(pattern: re.Pattern[str], *, empty: bool = False) -> Callable[[object], str]:
    def check(untrusted_text: object) -> str:
        if type(untrusted_text) is not str or not (pattern.fullmatch(untrusted_text) or (empty and not untrusted_text)):
            raise Malformed("not a name")
        return untrusted_text

    return check


def _number(low: int, high: int) -> Callable[[object], int]:
    def check(untrusted_number: object) -> int:
        if type(untrusted_number) is not int or not low <= untrusted_number <= high:
            raise Malformed("not a number within bounds")
        return untrusted_number

    return check


def _truth(untrusted_truth: object) -> bool:
    if type(untrusted_truth) is not bool:
        raise Malformed("neither true nor false")
    return untrusted_truth


def _list(limit: int, each: Callable[[Any], Any]) -> Callable[[object], list[Any]]:
    def check(untrusted_list: object) -> list[Any]:
        if not isinstance(untrusted_list, list) or len(untrusted_list) > limit:
            raise Malformed("not a short list")
        return [each(entry) for entry in untrusted_list]

    return check


def _app(untrusted_app: object) -> dict[str, Any]:
    return _pick(untrusted_app, {"id": _match(_APP), "name": _text(120, 1), "comment": _text(300), "keywords": _text(300),
                                 "icon": _match(_DIGEST, empty=True)})  # fmt: skip


def _window(untrusted_window: object) -> dict[str, Any]:
    return _pick(untrusted_window, {"id": _number(0, 0xFFFFFFFF), "app": _match(_APP, empty=True), "title": _text(200),
                                    "active": _truth})  # fmt: skip


def png(untrusted_text: object) -> bytes:
    """A PNG of at most 64 KiB and 256 x 256 from its base64 text (PNG, chapter 11.2.1: IHDR is first and 13 bytes long)."""
    if type(untrusted_text) is not str or len(untrusted_text) > MAX_ICON * 4 // 3 + 4:
        raise Malformed("not an icon")
    try:
        untrusted_png = base64.b64decode(untrusted_text, validate=True)
    except (binascii.Error, ValueError) as why:
        raise Malformed("not base64") from why
    head = untrusted_png[:33]
    if len(untrusted_png) > MAX_ICON or len(head) < 33 or head[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR":
        raise Malformed("not a PNG")
    width, height = struct.unpack(">II", head[16:24])
    if not (1 <= width <= MAX_PIXELS and 1 <= height <= MAX_PIXELS):
        raise Malformed("a PNG too large")
    return untrusted_png


def icon(untrusted_ok: object, digest: str) -> dict[str, Any]:
    """The answer to `icon`: it must be the picture that was asked for."""
    picture = _pick(untrusted_ok, {"png": png})["png"]
    if hashlib.sha256(picture).hexdigest() != digest:
        raise Malformed("another picture than was asked for")
    return {"png": base64.b64encode(picture).decode()}


_HOME: dict[str, Callable[[Any], Any]] = {"device": _number(0, 1 << 53), "files": _number(0, 1 << 53)}
_PATHS = _list(64, _text(4096, 1))
ANSWERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "hello": {"agent": _text(32), "features": _list(64, _match(_WORD)), "boot": _match(_WORD), "session": _truth},
    "ping": {},
    "apps": {"apps": _list(MAX_APPS, _app)},
    "launch": {"launch": _match(_TOKEN)},
    "windows": {"windows": _list(MAX_WINDOWS, _window)},
    "display": {"width": _number(1, 16384), "height": _number(1, 16384)},
    "layout": {},
    "time": {"unix_ms": _number(0, 1 << 45)},
    "freeze": {"frozen": _PATHS},
    "thaw": {"thawed": _PATHS},
    "shutdown": {},
    "notices": {},
    "tapped": {"launch": _match(_TOKEN, empty=True)},
    "dismissed": {},
    "focus": {},
    "doze": {},
}
EVENTS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "session": {"up": _truth},
    "window": {"launch": _match(_TOKEN), "app": _match(_APP), "title": _text(200), "ms": _number(0, 1 << 31)},
    "gone": {"launch": _match(_TOKEN)},
    "notice": {
        "notice": _number(1, 0xFFFFFFFF),
        "app": _match(_APP, empty=True),
        "summary": _plain(120),
        "body": _plain(400),
    },
    "notice-gone": {"notice": _number(1, 0xFFFFFFFF)},
    "focus": {"kind": _match(_FIELD, empty=True)},
    "idle": {"due": _number(0, MAX_DUE)},
    "busy": {},
}


def answer(verb: str, untrusted_ok: object, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The checked answer to `verb`; `asked` are the request's arguments."""
    if verb == "icon":
        return icon(untrusted_ok, str(asked["icon"]))
    checked = _pick(untrusted_ok, ANSWERS[verb])
    if verb == "hello" and isinstance(untrusted_ok, dict) and "home" in untrusted_ok:  # older guests do not say
        checked["home"] = _pick(untrusted_ok["home"], _HOME)
    return checked


def event(untrusted_event: dict[str, Any]) -> dict[str, Any]:
    """A checked event, `{"event": name, …}`."""
    name = untrusted_event.get("event")
    if type(name) is not str or name not in EVENTS:
        raise Malformed("an event not known")
    return {"event": name, **_pick(untrusted_event, EVENTS[name])}


def error(untrusted_error: object) -> tuple[str, str]:
    """The (code, text) of a refusal."""
    checked = _pick(untrusted_error, {"code": _match(_WORD), "text": _text(500)})
    return checked["code"], checked["text"]
