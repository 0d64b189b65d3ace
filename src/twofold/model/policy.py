"""What a workspace may do. Default deny; a document with an unknown or contradictory rule is refused whole.

Rules come from four scopes. One rule of precedence: the narrowest scope that says something about a rule decides it alone, from
the workspace (one grant) over its user and its pool to everybody; where no scope speaks, the default holds.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError
from twofold.model.reach import reach

RUN, SUSPEND = "run", "suspend"  # what `screen_off` may say
NEVER, DARK, UNSEEN = "never", "dark", "unseen"  # what `doze` may say
DEFER_SECONDS = 2 * 3600  # how long one "later" lasts, as in View
NOTIFICATIONS = ("none", "app", "full")  # what the personal side is told of a notification in Work, least first
_FIRST = frozenset(  # what version 0.1 knows
    ("offline_seconds", "heartbeat_seconds", "clipboard_to_work", "clipboard_from_work", "sound_out", "sound_in",
     "files_to_work", "files_from_work", "usb", "screenshots", "network")
)  # fmt: skip
_LATER = frozenset(("notifications", "screen_off", "doze"))  # what came after the second form of leases


class Scope(enum.StrEnum):
    """Widest first. A group speaks through the grant that a workspace is there by, and through no other."""

    GLOBAL = "global"
    POOL = "pool"
    GROUP = "group"
    USER = "user"
    WORKSPACE = "workspace"


@dataclass(frozen=True)
class Policy:
    """Times in seconds, dates in Unix seconds; 0 is never where nothing else is said. Permissions to take data across, or to
    widen the machine, are off unless the company turns them on."""

    offline_seconds: int = 7 * 86400  # without the server, then the workspace is suspended and locked
    erase_seconds: int = 0  # without the server, then its keys are destroyed; above offline_seconds
    heartbeat_seconds: int = 300
    ends: int = 0  # the day on which the workspace ends, as a grant may end
    checkout: bool = True  # may be taken to a device, and run there
    checkin: bool = True  # the person may give it back
    discard: bool = True  # the person may give it back without what is new
    reset: bool = False  # the person may drop what was changed in the system
    replicate: bool = True  # the person may back up when they like
    replicate_seconds: int = 12 * 3600  # from start to start of backing up by itself
    replicate_metered: bool = False  # by itself also where the network is paid for by volume; so for the image's pieces
    defer: bool = False  # the person may put a back up off by two hours
    keep_points: int = 10  # points of the past that the server keeps, at least the newest
    keep_days: int = 30  # younger ones are all kept
    devices: int = 0  # devices that one user may have enrolled; 0: any number
    unlock: bool = False  # opens only with a code that the person chose
    unlock_failures: int = 5  # wrong codes, then it is locked until its administrator unlocks it
    erase_failures: int = 0  # then its keys are destroyed; above unlock_failures
    disk_gib: int = 0  # the person may have their disk made larger, up to so many GiB; 0: not at all
    screen_off: str = RUN  # what a dark screen makes of it on a person's device; SUSPEND: its keys are dropped
    doze: str = (
        DARK  # when it may stand still while nothing happens in it: NEVER, a DARK screen, or whenever it is UNSEEN
    )
    recovery: bool = False  # keys are wrapped for the company's recovery key as well
    keys_leave: bool = False  # keys may be wrapped for another device when a workspace is exported to it
    hypervisor: bool = False  # starts only where our own hypervisor is below it
    tpm: bool = False  # starts only where a TPM keeps the key
    attested: bool = False  # starts only where the machine's start was attested
    clipboard_to_work: bool = False
    clipboard_from_work: bool = False
    sound_out: bool = True
    sound_in: bool = False
    files_to_work: bool = False
    files_from_work: bool = False
    usb: bool = False
    screenshots: bool = False
    notifications: str = "none"  # shown on the personal side: none, which application, or its words (NOTIFICATIONS)
    network: str = "none"  # what the guest may reach: `twofold.model.reach`

    def to_wire(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def said(self) -> dict[str, Any]:
        """The rules that are not at their defaults: what a scope must say to get this policy."""
        return {name: value for name, value in self.to_wire().items() if value != getattr(_DEFAULT, name)}

    def to_wire_first(self) -> dict[str, Any]:
        """As version 0.1 reads it. Newer rules are in it where they are not at their defaults: that version refuses them, and
        with them the whole, as it must."""
        return {name: value for name, value in self.to_wire().items() if name in _FIRST} | self.said()

    def to_wire_second(self) -> dict[str, Any]:
        """As it is signed from the second form of leases on: without the newest rules where they are at their defaults, so that a
        device which does not know them is shut out only by a company that says them."""
        return {name: value for name, value in self.to_wire().items() if name not in _LATER} | self.said()

    @classmethod
    def from_wire(cls, untrusted_policy: object) -> Policy:
        """Validate a policy document. Anything not understood refuses the whole: a rule that is ignored protects nobody."""
        policy = cls(**rules(untrusted_policy))
        reach(policy.network)
        if policy.notifications not in NOTIFICATIONS:
            raise BadInputError(
                f"The policy's rule notifications is {', '.join(NOTIFICATIONS[:-1])} or {NOTIFICATIONS[-1]}.",
                safe="Nothing was changed.",
            )
        for off, why in (
            (
                not 60 <= policy.heartbeat_seconds <= policy.offline_seconds,
                "heartbeat_seconds must lie between 60 and offline_seconds",
            ),
            (0 < policy.erase_seconds <= policy.offline_seconds, "erase_seconds must be above offline_seconds"),
            (0 < policy.replicate_seconds < 300, "replicate_seconds must be 0 or at least 300"),
            (
                0 < policy.erase_failures <= policy.unlock_failures,
                "erase_failures must be above unlock_failures: first lock, then erase",
            ),
            (
                policy.erase_failures > 0 and policy.unlock_failures == 0,
                "erase_failures needs unlock_failures: first lock, then erase",
            ),
            (policy.disk_gib > 1 << 16, "disk_gib must not be above 65536"),
            (policy.keep_points < 1, "keep_points must be at least 1"),
            (policy.doze not in (NEVER, DARK, UNSEEN), f"doze must be {NEVER}, {DARK} or {UNSEEN}"),
            (policy.screen_off not in (RUN, SUSPEND), f"screen_off must be {RUN} or {SUSPEND}"),
        ):
            if off:
                raise BadInputError(f"The policy contradicts itself: {why}.", safe="Nothing was changed.")
        return policy


_DEFAULT = Policy()


def rules(untrusted_rules: object) -> dict[str, Any]:
    """Validate what one scope says: any of the rules, each of its type. Whether they go together is `Policy.from_wire`'s to say.

    Raises:
        BadInputError: a rule is unknown or of another type.
    """
    if not isinstance(untrusted_rules, dict):
        raise BadInputError("The policy is not a document of rules.")
    unknown = sorted(str(key)[:40] for key in untrusted_rules.keys() - _DEFAULT.to_wire().keys())
    if unknown:
        raise BadInputError(
            f"The policy has rules this version does not know: {', '.join(unknown)}.",
            next="Update Twofold or mend the policy.",
        )
    for name, value in untrusted_rules.items():
        kind = type(getattr(_DEFAULT, name))
        if type(value) is not kind:
            raise BadInputError(f"The policy's rule {name} must be {kind.__name__}, not {type(value).__name__}.")
        if type(value) is int and not 0 <= value < 1 << 40:
            raise BadInputError(f"The policy's rule {name} is not a count.")
    return dict(untrusted_rules)


@dataclass(frozen=True)
class Rule:
    """What holds, and why: `scope` is empty where no scope speaks and the default holds; `name` is the pool, user or grant."""

    rule: str
    value: int | str | bool
    scope: str
    name: str


def explained(scopes: Iterable[tuple[Scope, str, Mapping[str, Any]]]) -> tuple[Policy, tuple[Rule, ...]]:
    """The policy that scopes make together, and where each rule's value comes from. `scopes` come in any order, each with its
    name and what it says (`rules`).

    Raises:
        BadInputError: together they contradict themselves.
    """
    order = list(Scope)
    decided: dict[str, tuple[Any, Scope, str]] = {}
    for scope, name, said in sorted(scopes, key=lambda row: order.index(row[0])):
        decided |= {rule: (value, scope, name) for rule, value in said.items()}
    policy = Policy.from_wire({rule: value for rule, (value, _, _) in decided.items()})
    return policy, tuple(
        Rule(rule, value, *(decided[rule][1:] if rule in decided else ("", "")))
        for rule, value in policy.to_wire().items()
    )
