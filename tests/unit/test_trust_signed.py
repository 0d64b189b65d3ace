"""Attacks on signed documents, each as a test (python-tuf's habit)."""

from __future__ import annotations

import base64
import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, RefusedError, TwofoldError
from twofold.trust import request
from twofold.trust.keys import SigningKey
from twofold.trust.signed import Context, message, sign, verify, verify_by

KEY, OTHER = SigningKey.make(), SigningKey.make()
TRUSTED = [KEY.verify_key]
DOCUMENT = {"image": "office", "version": 3}


def signed(*keys: SigningKey) -> dict[str, Any]:
    return sign(Context.GENERATION, DOCUMENT, *(keys or (KEY,)))


def test_what_was_signed_comes_back() -> None:
    assert verify(Context.GENERATION, signed(), TRUSTED) == DOCUMENT
    assert verify(Context.GENERATION, signed(OTHER, KEY), TRUSTED) == DOCUMENT


@pytest.mark.parametrize("context", [Context.LEASE, Context.REQUEST, Context.COMMAND])
def test_one_kind_never_stands_for_another(context: Context) -> None:
    with pytest.raises(RefusedError):
        verify(context, signed(), TRUSTED)


def test_another_key_is_refused() -> None:
    with pytest.raises(RefusedError):
        verify(Context.GENERATION, signed(OTHER), TRUSTED)
    with pytest.raises(RefusedError):
        verify(Context.GENERATION, signed(), [])


def test_a_signature_under_anothers_name_is_refused() -> None:
    swapped = signed(OTHER)
    swapped["signatures"][0]["key"] = KEY.id
    with pytest.raises(RefusedError):
        verify(Context.GENERATION, swapped, TRUSTED)


def test_who_signed_is_proved_not_claimed() -> None:
    false = signed(OTHER, KEY)
    false["signatures"][0]["sig"] = false["signatures"][1]["sig"]
    assert verify_by(Context.GENERATION, false, [OTHER.verify_key, KEY.verify_key])[0] == KEY.verify_key


def test_stripped_signatures_are_refused() -> None:
    with pytest.raises(BadInputError):
        verify(Context.GENERATION, signed() | {"signatures": []}, TRUSTED)
    with pytest.raises(BadInputError):
        verify(Context.GENERATION, {"payload": signed()["payload"]}, TRUSTED)


def test_a_signature_from_another_document_is_refused() -> None:
    newer = sign(Context.GENERATION, DOCUMENT | {"version": 4}, KEY)
    with pytest.raises(RefusedError):
        verify(Context.GENERATION, newer | {"signatures": signed()["signatures"]}, TRUSTED)


def test_every_changed_byte_of_the_payload_is_refused() -> None:
    good = signed()
    payload = base64.b64decode(good["payload"])
    for at in range(len(payload)):
        bad = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        with pytest.raises(RefusedError):
            verify(Context.GENERATION, good | {"payload": base64.b64encode(bad).decode()}, TRUSTED)
    with pytest.raises(RefusedError):
        verify(Context.GENERATION, good | {"payload": base64.b64encode(payload[:-1]).decode()}, TRUSTED)


@pytest.mark.parametrize(
    "payload", [b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1,"a":2}', b"not json", b'{"a":1.5}', b"\xff"]
)
def test_a_payload_with_two_readings_is_refused_although_signed(payload: bytes) -> None:
    signature = base64.b64encode(KEY.sign(message(Context.GENERATION, payload))).decode()
    document = {"payload": base64.b64encode(payload).decode(), "signatures": [{"key": KEY.id, "sig": signature}]}
    with pytest.raises(BadInputError):
        verify(Context.GENERATION, document, TRUSTED)


def test_nothing_is_parsed_before_the_signature_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = copy.deepcopy(signed(OTHER))

    def parser(*_: object) -> None:
        raise AssertionError("parsed an unverified payload")

    monkeypatch.setattr(json, "loads", parser)
    with pytest.raises(RefusedError):
        verify(Context.GENERATION, bad, TRUSTED)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON | st.fixed_dictionaries({"payload": st.text() | st.integers(), "signatures": _JSON}))
def test_a_strangers_document_is_an_error_a_person_can_read(document: object) -> None:
    with pytest.raises(TwofoldError):
        verify(Context.GENERATION, document, TRUSTED)


@given(st.dictionaries(st.text(max_size=10), _JSON, max_size=5))
def test_any_document_survives(document: dict[str, Any]) -> None:
    assert verify(Context.LEASE, sign(Context.LEASE, document, KEY), TRUSTED) == json.loads(canonical(document))


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_a_request_is_bound_to_all_that_it_says() -> None:
    server, now = OTHER.id, time.time()
    good = request.claim(lower(request.headers(KEY, server, "POST", "/a?b=c", b"body")))
    request.check(good, KEY.verify_key, server, "POST", "/a?b=c", b"body", now)
    for method, path, body, where in [
        ("GET", "/a?b=c", b"body", server),
        ("POST", "/a?b=d", b"body", server),
        ("POST", "/a", b"body", server),
        ("POST", "/a?b=c", b"bodz", server),
        ("POST", "/a?b=c", b"body", KEY.id),  # passed on to another server
        ("POST", "/a?b=c", b"body", ""),
    ]:
        with pytest.raises(RefusedError):
            request.check(good, KEY.verify_key, where, method, path, body, now)
    for late in (request.WINDOW + 2, -request.WINDOW - 2):
        with pytest.raises(RefusedError):
            request.check(good, KEY.verify_key, server, "POST", "/a?b=c", b"body", now + late)
    with pytest.raises(RefusedError):
        request.check(good, OTHER.verify_key, server, "POST", "/a?b=c", b"body", now)


@pytest.mark.parametrize("name", ["device", "time", "nonce", "signature"])
@pytest.mark.parametrize("value", ["", "x", "-1", "0" * 65, "٣", "9" * 13])
def test_malformed_headers_are_refused(name: str, value: str) -> None:
    headers = lower(request.headers(KEY, "", "GET", "/", b"")) | {f"twofold-{name}": value}
    with pytest.raises(RefusedError):
        request.claim(headers)
