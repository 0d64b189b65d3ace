"""What the model of `tests.model.history` is made of, and how it is said."""

from __future__ import annotations

from typing import NamedTuple

NOBODY = -1


class Gen(NamedTuple):
    """A signed generation; equal ones are one. `parent` None: the first. Its key is (epoch, token): each holder makes its own.
    What is new in it was written under the epoch `wrote`, when its holder knew of `heard` devices that they were given up."""

    parent: Gen | None
    device: int
    token: int
    epoch: int
    work: int
    wrote: int = 0
    heard: int = 0


class Server(NamedTuple):
    """`given` holds who got token 1, 2, …; `kept` each generation with its kind and the token of the row when it came; `wraps`
    the keys with the devices that each was wrapped for; `out` the devices that were given up, with the newest token then and how
    many had been before. `wanted`: the key epoch that the holder is asked to begin, 0 for none."""

    holder: int = NOBODY
    head: Gen | None = None
    epoch: int = 0
    given: tuple[int, ...] = ()
    kept: frozenset[tuple[Gen, str, int]] = frozenset()
    wraps: frozenset[tuple[tuple[int, int], frozenset[int]]] = frozenset()
    out: frozenset[tuple[int, int, int]] = frozenset()
    wanted: int = 0

    @property
    def token(self) -> int:
        return len(self.given)


class Device(NamedTuple):
    """`token` 0: no lease that it knows of. `dirty`: it wrote what no generation holds yet. `sent`: signed, not answered. `told`:
    what the server answered it, with the kind. `keys`: what it has been able to open since it was last wiped. `heard` as in
    `Gen`, `wrote` that and the epoch when it wrote what is dirty."""

    token: int = 0
    base: Gen | None = None
    epoch: int = 0
    dirty: bool = False
    sent: Gen | None = None
    told: frozenset[tuple[Gen, str]] = frozenset()
    keys: frozenset[tuple[int, int]] = frozenset()
    members: frozenset[int] = frozenset()
    leaving: bool = False
    wiped: bool = False
    heard: int = 0
    wrote: tuple[int, int] = (0, 0)


class Message(NamedTuple):
    """`verb`: checkout, commit, checkin, discard, beat, keys; answered by lease, answer, stale, left, lost, fresh, wraps.
    `times`: how often it may still be repeated."""

    verb: str
    device: int
    token: int = 0
    gen: Gen | None = None
    word: str = ""
    epoch: int = 0
    key: tuple[int, int] | None = None
    members: frozenset[int] = frozenset()
    times: int = 1
    heard: int = 0


class Left(NamedTuple):
    """How often it may still happen that somebody writes; that a lease is broken; that a device is given up; that somebody
    leaves; that the network repeats a message; that a device's disk is put back to its beginning; that a holder gives another
    device its key by hand."""

    write: int = 0
    breaks: int = 0
    give_up: int = 0
    leave: int = 0
    repeat: int = 0
    put_back: int = 0
    give: int = 0


NOTHING_MORE = Left()


class World(NamedTuple):
    server: Server
    devices: tuple[Device, ...]
    net: frozenset[Message] = frozenset()
    left: Left = NOTHING_MORE


def name(number: int) -> str:
    return "ABCDEFGH"[number]


def described(gen: Gen | None) -> str:
    if gen is None:
        return "nothing"
    depth, at = 0, gen.parent
    while at is not None:
        depth, at = depth + 1, at.parent
    return f"generation {depth + 1} (by {name(gen.device)}, token {gen.token}, epoch {gen.epoch}, work {gen.work})"


def words(message: Message) -> str:
    who = name(message.device)
    said = {
        "checkout": f"{who}'s wish for the lease",
        "commit": f"{who}'s {described(message.gen)}",
        "checkin": f"{who}'s check-in of token {message.token}",
        "discard": f"{who}'s discard of token {message.token}",
        "beat": f"{who}'s heartbeat with token {message.token}",
        "keys": f"{who}'s wish for the newest key",
        "wraps": f"the key of epoch and token {message.key} wrapped for {who}",
        "lease": f"the lease with token {message.token} on {described(message.gen)} for {who}",
        "answer": f"that {described(message.gen)} is on the {message.word}",
        "stale": f"{who} that the head is {described(message.gen)}",
        "left": f"{who} that token {message.token} is given back",
        "fresh": f"{who} to begin key epoch {message.epoch}, {message.heard} being given up",
        "lost": f"{who} that token {message.token} is lost",
    }
    return said[message.verb]
