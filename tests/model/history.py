"""Leases, fencing and commits (docs/protocol.md, *Generations and leases*) as a model: one workspace, one server, some devices,
a network that loses, delays, repeats and reorders, an administrator who breaks leases and wipes devices.

A server's crash is a lost request or a lost answer (its transactions are atomic), and so is a device's (what it wrote and signed
is in its vault). A partition is a network that delivers to one side alone, heartbeat loss one that does not deliver `lost`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, permutations

from tests.model.checker import Step
from tests.model.records import NOBODY, NOTHING_MORE, Device, Gen, Left, Message, Server, World, described, name, words


@dataclass(frozen=True)
class Fences:
    """The server's and the devices' checks; each can be taken away to see that it is needed."""

    holder: bool = True  # token and device are the row's
    head: bool = True  # the parent is the row's head
    known: bool = True  # a generation that is here is answered as it was
    epoch: bool = True  # a new holder begins a new epoch
    members: bool = True  # no key is wrapped for a wiped device
    asks: bool = True  # a holder begins a new epoch when another device is given up


@dataclass(frozen=True)
class History:
    devices: int = 2
    budget: Left = NOTHING_MORE
    fences: Fences = Fences()
    flying: int = 3  # messages under way at once

    def initial(self) -> World:
        return World(Server(), tuple(Device() for _ in range(self.devices)), frozenset(), self.budget)

    def same(self, state: World) -> Iterator[World]:
        for names in list(permutations(range(self.devices)))[1:]:
            yield _renamed(state, names)

    # What can happen.

    def steps(self, state: World) -> Iterator[tuple[Step, World]]:
        for number, device in enumerate(state.devices):
            yield from self._device(state, number, device)
        for message in state.net:
            rest = state.net - {message}
            if message.verb in _REQUESTS:
                server, answers = handle(state.server, message, self.fences)
                said = f"the server gets {words(message)}" + "".join(f", answers {words(a)}" for a in answers)
                for kept, how in self._kept(state, message, rest):
                    yield Step(said + how, message), kept._replace(server=server, net=kept.net | answers)
            else:
                after = hear(state.devices[message.device], message, self.fences)
                for kept, how in self._kept(state, message, rest):
                    devices = _with(state.devices, message.device, after)
                    yield (
                        Step(f"device {name(message.device)} hears {words(message)}{how}"),
                        kept._replace(devices=devices),
                    )
            yield Step(f"the network loses {words(message)}"), state._replace(net=rest)
        yield from self._administrator(state)

    def _kept(self, state: World, message: Message, rest: frozenset[Message]) -> Iterator[tuple[World, str]]:
        yield state._replace(net=rest), ""
        if state.left.repeat and message.times:
            again = rest | {message._replace(times=message.times - 1)}
            yield _spend(state, "repeat")._replace(net=again), ", and it will come again"

    def _device(self, state: World, number: int, me: Device) -> Iterator[tuple[Step, World]]:
        who = f"device {name(number)}"

        def become(after: Device, *messages: Message) -> World:
            return state._replace(devices=_with(state.devices, number, after), net=state.net | frozenset(messages))

        if me.wiped:
            return
        if me.token and state.left.write and not me.dirty and not me.leaving and me.sent is None:
            yield Step(f"{who} writes"), _spend(become(me._replace(dirty=True, wrote=(me.heard, me.epoch))), "write")
        if me.token and me.dirty and me.sent is None:
            work = state.left.write  # another content each time
            heard, wrote = me.wrote
            gen = Gen(me.base, number, me.token, me.epoch, work, wrote, heard)
            key = (me.epoch, me.token)
            yield (
                Step(f"{who} signs {described(gen)}"),
                become(me._replace(dirty=False, sent=gen, keys=me.keys | {key})),
            )
        if me.token and state.left.give:
            yield from self._gives(state, number, me)
        if me.leaving:
            yield Step(f"{who} goes on after all"), become(me._replace(leaving=False))
        if me.base is not None and state.left.put_back and not me.dirty and me.sent is None:
            # An image of the disk from before its first generation, whose age was accepted by hand.
            yield Step(f"{who}'s disk is put back"), _spend(become(me._replace(base=None)), "put_back")
        if len(state.net) >= self.flying:
            return
        if any(number == one for one, _, _ in state.server.out):
            yield Step(f"{who} asks for keys"), become(me, Message("keys", number))
        if not me.token and me.sent is None and not me.dirty:
            yield Step(f"{who} asks for the lease"), become(me, Message("checkout", number))
        if me.sent is not None:
            key = (me.sent.epoch, me.sent.token)
            sent = Message("commit", number, me.sent.token, me.sent, key=key, members=me.members)
            yield Step(f"{who} sends {described(me.sent)}"), become(me, sent)
        if me.token and not me.leaving:
            yield Step(f"{who} sends a heartbeat"), become(me, Message("beat", number, me.token))
        if me.token and state.left.leave and me.sent is None:
            if not me.dirty and me.base is not None:
                leave = Message("checkin", number, me.token, me.base)
                yield Step(f"{who} checks in"), _spend(become(me._replace(leaving=True), leave), "leave")
            # The person was shown what is lost, and gave it up.
            drop = Message("discard", number, me.token)
            yield Step(f"{who} discards"), _spend(become(me._replace(token=0, dirty=False), drop), "leave")

    def _gives(self, state: World, number: int, me: Device) -> Iterator[tuple[Step, World]]:
        """In a folder, say, of which the server never hears; to nobody that it knows to be given up."""
        gone = {who for who, _, before in state.server.out if before < me.heard}
        for to, there in enumerate(state.devices):
            if to != number and to not in gone and not there.wiped:
                given = there._replace(keys=there.keys | {(me.epoch, me.token)})
                said = f"device {name(number)} gives device {name(to)} its key"
                yield Step(said), _spend(state._replace(devices=_with(state.devices, to, given)), "give")

    def _administrator(self, state: World) -> Iterator[tuple[Step, World]]:
        server = state.server
        for number in range(self.devices) if state.left.give_up else ():
            spent = _spend(state, "give_up")
            holder = server.holder if server.holder != number else NOBODY
            wanted = max(server.wanted, _least(server)) + 1 if holder != NOBODY else 0
            out = server.out | {(number, server.token, len(server.out))}
            gone = server._replace(holder=holder, out=out, wanted=wanted)
            yield Step(f"device {name(number)} is stolen and given up", ("revoke", number)), spent._replace(server=gone)
            wiped = state.devices[number]._replace(token=0, dirty=False, sent=None, wiped=True, keys=frozenset())
            devices = _with(state.devices, number, wiped)
            yield Step(f"device {name(number)} is given up and wiped"), spent._replace(server=gone, devices=devices)
        if state.left.breaks and server.holder != NOBODY:
            free = server._replace(holder=NOBODY)
            yield (
                Step(f"the lease of device {name(server.holder)} is broken", "break"),
                _spend(state, "breaks")._replace(server=free),
            )

    # What must hold.

    def broken(self, state: World) -> str | None:
        server = state.server
        line = {gen for gen, kind, _ in server.kept if kind == "line"}
        chain: list[Gen] = []
        at = server.head
        while at is not None:
            chain.append(at)
            at = at.parent
        parents = [gen.parent for gen in line]
        if len(set(parents)) != len(parents):
            return "one history: two generations of the line have one parent"
        if set(chain) != line:
            return "one history: the line is not what leads to the head"
        for gen, kind, row in server.kept:
            if kind == "line" and (gen.token != row or server.given[gen.token - 1] != gen.device):
                return f"a late writer ends as a branch: {described(gen)} came when token {row} was given and is on the line"
        for new, old in pairwise(chain):
            if new.token < old.token:
                return "tokens only grow along the line"
            if new.token != old.token and new.epoch <= old.epoch:
                return f"a new holder writes under a new key: {described(new)} follows {described(old)}"
        kinds = {gen: kind for gen, kind, _ in server.kept}
        for number, device in enumerate(state.devices):
            for gen, kind in device.told:
                if kinds.get(gen) != kind:
                    return f"nothing acknowledged is lost: device {name(number)} was told that {described(gen)} is on the {kind}"
            for who, until, before in server.out:
                if who == number and any(token > until for _, token in device.keys):
                    return f"a wiped device never has a later key: device {name(number)}"
                for gen, _, _ in server.kept if who == number else ():
                    if gen.heard > before and any(t == gen.token and e >= gen.wrote for e, t in device.keys):
                        return f"what is written once a device is known to be given up it can't open: {described(gen)}"
        return None


_REQUESTS = {"checkout", "commit", "checkin", "discard", "beat", "keys"}


def handle(row: Server, message: Message, fences: Fences) -> tuple[Server, frozenset[Message]]:
    """The server: one transaction for each request."""
    who, gen = message.device, message.gen

    def tell(verb: str, **more: object) -> frozenset[Message]:
        return frozenset([Message(verb, who, **more)])  # type: ignore[arg-type]

    held = row.holder == who
    if message.verb == "checkout":
        if any(who == one for one, _, _ in row.out) or row.holder not in (NOBODY, who):
            return row, frozenset()
        if not held:
            row = row._replace(holder=who, given=(*row.given, who), wanted=0)
        return row, tell("lease", **_lease(row, who, fences))
    if message.verb == "keys":  # answered to anybody: that it opens nothing new is for the wraps to see to
        key = _lease(row, who, fences)["key"]
        return row, tell("wraps", key=key) if key else frozenset()
    if message.verb == "beat":
        if not held or message.token != row.token:
            return row, tell("lost", token=message.token)
        out = {one for one, _, _ in row.out} if fences.members else set()
        fresh = {"epoch": row.wanted if fences.asks else 0, "heard": len(row.out), "members": frozenset(range(8)) - out}
        return row, tell("fresh", token=row.token, **fresh) if row.wanted else frozenset()
    if message.verb == "commit":
        assert gen is not None
        known = {each: kind for each, kind, _ in row.kept}
        if fences.known and gen in known:
            return row, tell("answer", gen=gen, word=known[gen])
        right = held and gen.token == row.token
        if right and row.head is not None and row.head.token == gen.token and gen.epoch < row.head.epoch:
            return row, frozenset()
        if (right or not fences.holder) and (gen.parent == row.head or not fences.head):
            assert message.key is not None
            row = row._replace(
                head=gen,
                epoch=max(row.epoch, gen.epoch),
                kept=row.kept | {(gen, "line", row.token)},
                wraps=row.wraps | {(message.key, message.members)},
            )
            return row, tell("answer", gen=gen, word="line")
        if right:
            return row, tell("stale", gen=row.head)
        if gen.token <= row.token and row.given[gen.token - 1] == who:
            return row._replace(kept=row.kept | {(gen, "branch", row.token)}), tell("answer", gen=gen, word="branch")
        return row, frozenset()
    if held and message.token == row.token and (message.verb == "discard" or row.head == gen):
        row = row._replace(holder=NOBODY)
    # Whoever does not hold it any more has left already.
    gone = row.holder != who or message.token != row.token
    return row, tell("left", token=message.token) if gone else frozenset()


def _lease(row: Server, who: int, fences: Fences) -> dict[str, object]:
    key = None
    if row.head is not None:
        newest = (row.head.epoch, row.head.token)
        key = next((each for each, members in row.wraps if each == newest and who in members), None)
    out = {one for one, _, _ in row.out} if fences.members else set()
    members = frozenset(range(8)) - out
    epoch = max(_least(row), row.wanted if fences.asks else 0) if fences.epoch else max(row.epoch, 1)
    return {
        "token": row.token, "gen": row.head, "epoch": epoch, "key": key, "members": members, "heard": len(row.out)
    }  # fmt: skip


def _least(row: Server) -> int:
    """The epoch that the holder of now began with; one that asks again goes on in it."""
    return row.epoch if row.head is not None and row.head.token == row.token else row.epoch + 1


def hear(me: Device, message: Message, fences: Fences) -> Device:
    """A device that gets an answer, however old."""
    if me.wiped:
        return me
    if message.verb == "lease":
        if me.token or me.sent is not None or me.dirty:
            return me
        keys = me.keys if message.key is None else me.keys | {message.key}
        return me._replace(
            token=message.token,
            base=message.gen,
            epoch=message.epoch,
            keys=keys,
            members=message.members,
            leaving=False,
            heard=max(me.heard, message.heard),
        )
    if message.verb == "fresh" and me.token == message.token:
        epoch, heard = max(me.epoch, message.epoch), max(me.heard, message.heard)
        return me._replace(epoch=epoch, members=message.members, heard=heard)
    if message.verb == "wraps" and message.key is not None:
        return me._replace(keys=me.keys | {message.key})
    if message.verb == "answer" and message.gen is not None:
        me = me._replace(told=me.told | {(message.gen, message.word)})
        if me.sent != message.gen:
            return me
        if message.word == "line":
            return me._replace(sent=None, base=message.gen)
        return me._replace(sent=None, token=0, dirty=False, base=None)
    if message.verb == "stale" and me.sent is not None and me.sent.parent != message.gen:
        return me._replace(sent=me.sent._replace(parent=message.gen))
    if message.verb in ("left", "lost") and me.token == message.token:
        if me.dirty or me.sent is not None:
            return me._replace(leaving=False)  # it is told; what it wrote still has to go to the server
        return me._replace(token=0, leaving=False)
    return me


def _spend(state: World, what: str) -> World:
    return state._replace(left=state.left._replace(**{what: getattr(state.left, what) - 1}))


def _with(devices: tuple[Device, ...], number: int, device: Device) -> tuple[Device, ...]:
    return (*devices[:number], device, *devices[number + 1 :])


def _renamed(state: World, names: tuple[int, ...]) -> World:
    memo: dict[Gen, Gen] = {}

    def other(number: int) -> int:
        return names[number] if 0 <= number < len(names) else number

    def g(gen: Gen | None) -> Gen | None:
        if gen is None:
            return None
        if gen not in memo:
            memo[gen] = gen._replace(parent=g(gen.parent), device=other(gen.device))
        return memo[gen]

    def sure(gen: Gen) -> Gen:
        found = g(gen)
        assert found is not None
        return found

    def group(members: Iterable[int]) -> frozenset[int]:
        return frozenset(map(other, members))

    server = state.server
    devices = [Device()] * len(names)
    for number, device in enumerate(state.devices):
        told = frozenset((sure(gen), kind) for gen, kind in device.told)
        devices[other(number)] = device._replace(
            base=g(device.base), sent=g(device.sent), told=told, members=group(device.members)
        )
    return World(
        server._replace(
            holder=other(server.holder),
            head=g(server.head),
            given=tuple(map(other, server.given)),
            kept=frozenset((sure(gen), kind, row) for gen, kind, row in server.kept),
            wraps=frozenset((key, group(members)) for key, members in server.wraps),
            out=frozenset((other(who), until, before) for who, until, before in server.out),
        ),
        tuple(devices),
        frozenset(m._replace(device=other(m.device), gen=g(m.gen), members=group(m.members)) for m in state.net),
        state.left,
    )
