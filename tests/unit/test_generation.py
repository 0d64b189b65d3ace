"""A generation's record comes from anybody: every field is validated, and nothing else than a valid one becomes a `Manifest`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.model.errors import BadInputError
from twofold.model.generation import LARGEST_FILE, SCHEMA, Manifest, SealedFile

ROOT = (2 << 14) | 5


def good() -> dict[str, Any]:
    rows = [
        {"name": name, "length": 4096, "digest": "ab" * 32} for name in ("p-0000000000000001", "s-0000000000000002")
    ]
    return {
        "schema": SCHEMA, "workspace": "work", "signer": "cd" * 32, "vault": "ef" * 16, "made": 1, "generation": 3,
        "parent": "", "time": 2, "note": "", "epoch": 1, "root": f"{ROOT:016x}", "pieces": 1, "image": "tiny",
        "image_version": 1, "files": rows,
    }  # fmt: skip


def test_a_record_comes_back_as_it_went() -> None:
    manifest = Manifest.from_wire(good())
    assert manifest.to_wire() == good()
    assert manifest.length == 8192
    assert len(manifest.id) == len(manifest.device) == 64
    child = Manifest.from_wire(good() | {"parent": manifest.id})
    assert child.id != manifest.id
    there = {
        "p-0000000000000001": manifest.files[0],
        "s-0000000000000002": SealedFile("s-0000000000000002", 1, "ab" * 32),
    }
    assert manifest.lacking(there) == manifest.files[1:]
    assert manifest.lacking({}) == manifest.files


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("schema", ("twofold-generation-2", None)),
        ("workspace", ("", "../x", "A", "x" * 41, 1)),
        ("signer", ("", "cd" * 31, "CD" * 32, "zz" * 32, None)),
        ("vault", ("ef" * 15, "ef" * 32, 5)),
        ("made", (-1, 1 << 53, True, 1.0, "1")),
        ("generation", (0, -1, 1 << 53, None)),
        ("parent", ("x", "ab" * 31, None)),
        ("time", (-1, False)),
        ("note", ("x" * 201, "\x1b[31m", "a\nb", None)),
        ("epoch", (0, 1 << 32)),
        ("root", ("f" * 16, "4" + "0" * 15, "5", 5, "0" * 16)),
        ("pieces", (0, 16385, "1")),
        ("image", ("", "a/b", None)),
        ("image_version", (-1, None)),
        ("files", ([], None, {}, "x", [1], [[]])),
        ("extra", (1,)),
    ],
)
def test_a_field_that_is_not_what_it_must_be_refuses_the_whole(field: str, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(BadInputError):
            Manifest.from_wire(good() | {field: value})
    if field != "extra":
        with pytest.raises(BadInputError):
            Manifest.from_wire({name: value for name, value in good().items() if name != field})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../etc/passwd"}, {"name": "p-0000000000000001/.."}, {"name": "p-000000000000000G"},
        {"name": "P-0000000000000001"}, {"name": "vault"}, {"name": "p-0000000000000001\n"},
        {"name": "s-0000000000000009"}, {"name": 1}, {"length": 0}, {"length": -1},
        {"length": LARGEST_FILE + 1}, {"length": True}, {"digest": "AB" * 32}, {"digest": ""}, {"more": 1},
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_must_be_refuses_the_whole(change: dict[str, object]) -> None:
    body = good()
    body["files"][0] |= change
    with pytest.raises(BadInputError):
        Manifest.from_wire(body)


def test_files_come_once_and_in_order_with_the_roots_own() -> None:
    rows = good()["files"]
    for files in (rows[::-1], rows + rows[1:], rows[:1], [rows[0], rows[0], rows[1]]):
        with pytest.raises(BadInputError):
            Manifest.from_wire(good() | {"files": files})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(good())), _JSON)
def test_anything_else_is_refused_and_never_surprises(field: str, value: object) -> None:
    body = copy.deepcopy(good()) | {field: value}
    try:
        assert Manifest.from_wire(body).to_wire() == body
    except BadInputError as said:
        assert said.happened


@given(_JSON)
def test_noise_is_no_record(noise: object) -> None:
    with pytest.raises(BadInputError):
        Manifest.from_wire(noise)
