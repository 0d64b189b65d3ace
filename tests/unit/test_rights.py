"""Until when a workspace runs: leases of both schemas, a clock that is turned back, warnings, the company's lock, erasing."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from twofold.agent import backup, rights
from twofold.agent.contact import Contact
from twofold.agent.remote import Beat
from twofold.agent.store import Record
from twofold.model.errors import RefusedError
from twofold.model.lease import Lease
from twofold.model.policy import Policy
from twofold.platform.clock import boottime

NOW = int(time.time())
DAY, HOUR = 86400, 3600
FIRST = Lease("work", "Acme", "blue", "alex", "a" * 64, 3, "business", 2, NOW, 0, Policy())
SECOND = dataclasses.replace(FIRST, epoch=1, expires=NOW + 7 * DAY)
HERE = Record(contacted_at=NOW, seen_at=NOW)


@pytest.mark.parametrize("lease", [FIRST, SECOND], ids=["first", "second"])
@pytest.mark.parametrize(("days", "held"), [(0, True), (6.9, True), (7, False), (30, False)])
def test_it_locks_after_the_time_without_contact(lease: Lease, days: float, held: bool) -> None:
    record = dataclasses.replace(HERE, seen_at=NOW + int(days * DAY))
    said = rights.refusal(lease, record)
    assert (said is None) == held
    if said is not None:
        assert "no contact" in said["happened"], "contact is all it takes, and that is what it says"
        assert "unlocks by itself" in said["next"]


def test_turning_the_clock_back_gains_nothing() -> None:
    """The real clock stands a month before the highest time that was seen."""
    record = dataclasses.replace(HERE, seen_at=NOW + 30 * DAY)
    assert rights.now(record) == NOW + 30 * DAY
    assert rights.refusal(SECOND, record) is not None


def test_what_is_known_of_the_time_goes_on_by_the_boot_time_clock() -> None:
    """Of this boot; after another one it stands where it was until the server is reached."""
    known = rights.seen(NOW + DAY) | {"seen_boot": int(boottime()) - HOUR}
    assert rights.now(Record(**known)) - (NOW + DAY + HOUR) in (0, 1)
    assert rights.now(Record(**known | {"seen_in": "another"})) == NOW + DAY
    assert rights.now(Record(**known | {"seen_boot": int(boottime()) + HOUR})) == NOW + DAY


def test_a_late_answer_makes_no_lease_longer() -> None:
    """Rule `answer` of tests/model: what it took counts as passed since it was signed, whatever the clock here says."""
    signed = NOW - 30 * DAY

    class Slow:
        def heartbeat(self, *_: object) -> Beat:
            time.sleep(1.1)
            return Beat((), time=signed)

        def speaks(self) -> bool:
            return False

    registry = SimpleNamespace(all=list, find=lambda _: None, rooms=SimpleNamespace(vouch=lambda: None, remote=Slow))
    contact = Contact(cast("Any", registry), cast("Any", SimpleNamespace(all=list)), lambda: None)
    assert asyncio.run(contact.beat()) - signed in (2, 3)
    lease = dataclasses.replace(SECOND, issued=signed, expires=signed + 7 * DAY)
    late = rights.since(signed, boottime() - 3 * DAY)
    assert rights.runs_until(lease, Record(contacted_at=late)) == signed + 7 * DAY


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_lease_that_ends_on_a_day_says_so(epoch: int) -> None:
    lease = dataclasses.replace(SECOND, epoch=epoch, expires=NOW + DAY)
    said = rights.refusal(lease, dataclasses.replace(HERE, seen_at=NOW + 2 * DAY))
    assert said is not None
    assert "ended on" in said["happened"]


@pytest.mark.parametrize(
    ("left", "stage"), [(3 * DAY, 0), (DAY + 60, 0), (DAY - 60, DAY), (HOUR + 60, DAY), (HOUR - 60, HOUR), (60, HOUR)]
)
def test_the_person_is_warned_a_day_and_an_hour_before(left: int, stage: int) -> None:
    record = dataclasses.replace(HERE, seen_at=NOW + 7 * DAY - left)
    assert rights.stage(SECOND, record) == stage
    said = rights.warning(SECOND, record)
    assert (said is not None) == bool(stage)
    if said is not None:
        assert "unless it reaches" in said["happened"]


def test_who_is_locked_already_is_not_warned_and_a_short_term_does_not_always_warn() -> None:
    assert rights.warning(SECOND, dataclasses.replace(HERE, seen_at=NOW + 8 * DAY)) is None
    short = dataclasses.replace(SECOND, expires=NOW + 4 * HOUR, policy=Policy(offline_seconds=4 * HOUR))
    assert rights.stage(short, HERE) == 0
    assert rights.stage(short, dataclasses.replace(HERE, seen_at=NOW + 3 * HOUR + 60)) == HOUR
    longer = dataclasses.replace(SECOND, expires=NOW + 30 * HOUR, policy=Policy(offline_seconds=30 * HOUR))
    assert rights.stage(longer, dataclasses.replace(HERE, seen_at=NOW + 7 * HOUR)) == 0, "most of it is still to come"


def test_locked_and_taken_refuse_whatever_the_time() -> None:
    for record, word in (
        (dataclasses.replace(HERE, locked=True), "locked"),
        (dataclasses.replace(HERE, taken=True), "taken"),
    ):
        assert rights.shut(SECOND, record) == word
        with pytest.raises(RefusedError, match=word):
            rights.require(SECOND, record)


def test_a_lock_says_who_asked_for_it_and_nothing_that_steers_a_terminal() -> None:
    record = dataclasses.replace(HERE, locked=True, locked_by="user ad\x1b[2Jmin")
    said = rights.refusal(SECOND, record)
    assert said is not None
    assert said["happened"] == "Your company has locked Acme (asked by ad[2Jmin)."


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (HERE, ""),
        (dataclasses.replace(HERE, seen_at=NOW + 8 * DAY), "away"),
        (dataclasses.replace(HERE, seen_at=NOW + 8 * DAY, locked=True), "locked"),
    ],
)
def test_why_it_is_shut_is_one_word_that_agrees_with_the_refusal(record: Record, word: str) -> None:
    assert rights.shut(SECOND, record) == word
    assert (rights.refusal(SECOND, record) is None) == (not word)


@pytest.mark.parametrize("rule", ["hypervisor", "tpm", "attested"])
def test_below_the_minimum_assurance_it_does_not_run_and_says_why(rule: str) -> None:
    lease = dataclasses.replace(SECOND, policy=Policy.from_wire({rule: True}))
    with pytest.raises(RefusedError, match="may not run on this machine"):
        rights.require(lease, HERE)
    assert rights.shut(lease, HERE) == "assurance"
    assert rights.warning(lease, dataclasses.replace(HERE, seen_at=NOW + 7 * DAY - 60)) is None


def test_the_end_of_the_right_is_another_word() -> None:
    ended = dataclasses.replace(FIRST, expires=NOW - 1)
    assert rights.shut(ended, HERE) == "ended"


@pytest.mark.parametrize(("erase", "days", "due"), [(0, 365, False), (8, 7.9, False), (8, 8, True)])
def test_keys_are_due_to_be_destroyed_after_the_companys_time(erase: int, days: float, due: bool) -> None:
    lease = dataclasses.replace(SECOND, policy=Policy(erase_seconds=erase * DAY))
    assert rights.erase_due(lease, dataclasses.replace(HERE, seen_at=NOW + int(days * DAY))) is due


@dataclasses.dataclass
class Kept:
    """What `backup.due` looks at."""

    lease: Lease
    record: Record
    wrong: None = None


@pytest.mark.parametrize(
    ("policy", "record", "metered", "due"),
    [
        (Policy(), Record(backup_at=NOW - 13 * HOUR), False, True),
        (Policy(), Record(backup_at=NOW - 11 * HOUR), False, False),
        (Policy(), Record(backup_at=NOW - 13 * HOUR), True, False),
        (Policy(replicate_metered=True), Record(backup_at=NOW - 13 * HOUR), True, True),
        (Policy(), Record(backup_at=NOW - 13 * HOUR, deferred_until=NOW + 60), False, False),
        (Policy(replicate_seconds=0), Record(backup_at=1), False, False),
        (Policy(), Record(backup_at=1, taken=True), False, False),
        (Policy(), Record(backup_at=1, leaving="discard"), False, False),
    ],
)
def test_backing_up_by_itself_is_due(policy: Policy, record: Record, metered: bool, due: bool) -> None:
    lease = dataclasses.replace(SECOND, policy=policy)
    assert backup.due(Kept(lease, record), NOW, metered=metered) is due  # type: ignore[arg-type]


def test_what_may_not_be_taken_out_any_more_does_not_run_and_may_be_given_back() -> None:
    lease = dataclasses.replace(SECOND, policy=Policy(checkout=False))
    said = rights.refusal(lease, HERE)
    assert said is not None
    assert "checkin" in said["next"], "nobody is stranded"
