"""The words hold: names, states, leases, policies, memory identities, canonical bytes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.model import errors, workspace
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError, TwofoldError
from twofold.model.lease import Lease
from twofold.model.machine import Accelerator, MemoryIdentity, misfits
from twofold.model.names import PALETTE, colour, slug, title
from twofold.model.policy import Policy, Scope, explained
from twofold.model.workspace import CUSTODY_MOVES, RUN_MOVES, Custody, RunState, move

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIRST = Lease("work", "Acme", "blue", "alex", "a" * 64, 3, "business", 2, 1_790_000_000, 0, Policy())
LEASE = dataclasses.replace(FIRST, policy=Policy(defer=True), epoch=2, head="b" * 64, content="c" * 64)
IDENTITY = MemoryIdentity("work", "head-1", "business", 2, Accelerator.TCG, "10.0.2", "pc-q35-10.0", "max", "f" * 64)


@pytest.mark.parametrize("good", ["a", "work", "acme-mail", "x" * 40, "0-9"])
def test_slug_takes_what_is_safe_in_a_path(good: str) -> None:
    assert slug(good, "a workspace") == good


@pytest.mark.parametrize("bad", ["", "-a", "a-", "A", "a/b", "..", "a b", "x" * 41, "é", "a\n", "a\0"])
def test_slug_refuses_the_rest(bad: str) -> None:
    with pytest.raises(BadInputError, match="is not a name"):
        slug(bad, "a workspace")


@pytest.mark.parametrize("bad", ["", " ", "x" * 61, "a\u202egpj.exe", "a\u2066b", "line\nline", "\x1b[31m"])
def test_title_refuses_what_would_read_otherwise(bad: str) -> None:
    with pytest.raises(BadInputError, match="cannot be shown"):
        title(bad, "a name")


def luminance(hexed: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(hexed[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", PALETTE)
def test_every_colour_carries_white_text(name: str) -> None:
    assert 1.05 / (luminance(PALETTE[name]) + 0.05) >= 4.5
    assert colour(name) == name


@pytest.mark.parametrize(("table", "states"), [(CUSTODY_MOVES, Custody), (RUN_MOVES, RunState)])
def test_tables_name_every_state_and_lead_everywhere(table: dict[Any, frozenset[Any]], states: Any) -> None:
    assert set(table) == set(states)
    reached, edge = set(), {next(iter(states))}
    while edge:
        reached |= edge
        edge = {then for now in edge for then in table[now]} - reached
    assert reached == set(states)
    assert all(table[state] for state in states), "a state with no way out"


@given(st.sampled_from(RunState), st.sampled_from(RunState))
def test_move_follows_the_table_and_nothing_else(now: RunState, then: RunState) -> None:
    if then in RUN_MOVES[now]:
        assert move(RUN_MOVES, now, then, "Work") is then
    else:
        with pytest.raises(ConflictError, match="cannot become"):
            move(RUN_MOVES, now, then, "Work")


def test_a_running_machine_cannot_be_started_again() -> None:
    assert workspace.RunState.STARTING not in RUN_MOVES[RunState.RUNNING]


def test_lease_survives_the_wire() -> None:
    for lease in (FIRST, LEASE):
        assert Lease.from_wire(json.loads(canonical(lease.to_wire()))) == lease


def test_a_lease_of_the_first_schema_is_what_version_0_1_reads() -> None:
    wire = FIRST.to_wire()
    assert wire["schema"] == "twofold-lease-1"
    assert wire.keys() == {"schema", *LEASE.to_wire()} - {"epoch", "head", "content"}
    assert len(wire["policy"]) == 11
    assert LEASE.policy.to_wire_first()["defer"] is True, "which version 0.1 refuses, and must"


@given(st.sampled_from([f.name for f in dataclasses.fields(Lease)]), JSON)
def test_lease_refuses_any_foreign_value(field: str, value: object) -> None:
    wire = LEASE.to_wire()
    before = wire[field]
    wire[field] = value
    try:
        read = Lease.from_wire(wire)
    except BadInputError:
        return
    assert type(getattr(read, field)) is type(getattr(LEASE, field)), (field, before, value)


@given(JSON)
def test_lease_and_policy_never_crash_on_documents(document: object) -> None:
    for read in (Lease.from_wire, Policy.from_wire, MemoryIdentity.from_wire):
        try:
            read(document)
        except BadInputError:
            continue
        assert document == {}, read  # an empty policy is the default policy


@pytest.mark.parametrize(
    "document",
    [
        {"clipbord_to_work": True},
        {"clipboard_to_work": 1},
        {"offline_seconds": True},
        {"network": "any"},
        {"network": ""},
        {"network": "all www.example.org"},
        {"network": "none 10.0.0.0/8"},
        {"network": ["www.example.org"]},
        {"heartbeat_seconds": 10},
        {"offline_seconds": 100, "heartbeat_seconds": 200},
        {"offline_seconds": -1},
        {"erase_seconds": 600, "offline_seconds": 600},
        {"erase_failures": 5, "unlock_failures": 5},
        {"erase_failures": 5, "unlock_failures": 0},
        {"replicate_seconds": 10},
        {"keep_points": 0},
        {"disk_gib": 65537},
        {"notifications": "all"},
        {"notifications": "FULL"},
        {"notifications": ""},
        {"notifications": True},
    ],
)
def test_policy_is_refused_whole(document: dict[str, object]) -> None:
    with pytest.raises(BadInputError):
        Policy.from_wire(document)


def test_policy_denies_by_default() -> None:
    allowed = {name for name, value in Policy().to_wire().items() if value is True}
    assert allowed == {"sound_out", "checkout", "checkin", "discard", "replicate"}, "nothing crosses but sound"
    assert (Policy().network, Policy().notifications) == ("none", "none")


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_older_device_is_shut_out_by_a_rule_only_where_somebody_says_it(epoch: int) -> None:
    def signed(policy: Policy) -> dict[str, Any]:
        found: dict[str, Any] = dataclasses.replace(LEASE, epoch=epoch, policy=policy).to_wire()["policy"]
        return found

    assert "notifications" not in signed(Policy())
    assert signed(Policy(notifications="app"))["notifications"] == "app"
    for level in ("none", "app", "full"):
        policy = Policy(notifications=level)
        assert Policy.from_wire(signed(policy)) == policy


SCOPES: list[tuple[Scope, str, dict[str, object]]] = [
    (Scope.WORKSPACE, "1", {"defer": True}),
    (Scope.GLOBAL, "", {"defer": False, "usb": True, "keep_days": 5, "offline_seconds": 90}),
    (Scope.USER, "ada", {"usb": False, "heartbeat_seconds": 80}),
    (Scope.POOL, "office", {"usb": True, "keep_days": 6}),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(SCOPES)))))
def test_the_narrowest_scope_that_speaks_decides(order: tuple[int, ...]) -> None:
    policy, rules = explained(SCOPES[at] for at in order)
    assert (policy.defer, policy.usb, policy.keep_days, policy.offline_seconds) == (True, False, 6, 90)
    said = {rule.rule: (rule.scope, rule.name) for rule in rules}
    assert said["defer"] == ("workspace", "1")
    assert said["usb"] == ("user", "ada")
    assert said["keep_days"] == ("pool", "office")
    assert said["offline_seconds"] == ("global", "")
    assert said["sound_out"] == ("", "")
    assert said.keys() == Policy().to_wire().keys()


def test_scopes_that_contradict_each_other_are_refused_whole() -> None:
    with pytest.raises(BadInputError, match="contradicts"):
        explained([(Scope.GLOBAL, "", {"offline_seconds": 90}), (Scope.USER, "ada", {"heartbeat_seconds": 100})])


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(MemoryIdentity)])
def test_memory_of_anything_else_is_a_misfit_said_in_words(field: str) -> None:
    other: Any = {"image_version": 3, "accelerator": Accelerator.KVM}.get(field, "other")
    assert misfits(IDENTITY, IDENTITY) == []
    (said,) = misfits(IDENTITY, dataclasses.replace(IDENTITY, **{field: other}))
    assert said.startswith(("another", "other"))


@given(JSON)
def test_canonical_is_one_text_for_one_document(document: object) -> None:
    assert canonical(document) == canonical(json.loads(canonical(document)))


def test_canonical_refuses_floats() -> None:
    with pytest.raises(TypeError):
        canonical({"a": [1.0]})


@given(JSON)
def test_an_error_from_the_wire_is_always_an_error(document: object) -> None:
    assert isinstance(errors.from_wire(document), TwofoldError)


def test_errors_survive_the_wire_and_have_distinct_exit_codes() -> None:
    kinds = errors.BY_CODE.values()
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    for kind in kinds:
        back = errors.from_wire(kind("It broke.", safe="All is safe.", next="Do this.").to_wire())
        assert (type(back), str(back)) == (kind, "It broke.\nAll is safe.\nDo this.")
