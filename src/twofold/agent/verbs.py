"""What the agent can be asked (docs/protocol.md, chapter 2): each verb with its arguments, beside what it does."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import twofold
from twofold.agent import base, disks, power
from twofold.agent.api import Answer, Verb
from twofold.agent.guest import Guest
from twofold.agent.operations import TRANSFER, Operation
from twofold.agent.workspace import Workspace
from twofold.model.errors import ConflictError, UsageError
from twofold.model.names import slug, title
from twofold.trust.keys import hex_bytes

if TYPE_CHECKING:
    from twofold.agent.daemon import Agent

API = 1
EXTENSIONS = (
    "removed-event",
    "time",
    "icons",
    "switch",
    "disk-moves",
    "backup",
    "online",
    "jobs-pause",
    "leave-running",
    "disk-resize",
    "notifications",
    "screen",
    "receipts",
    "looking",
)

_WORKSPACE = {"workspace": (str, ...)}
_WAIT_LIMIT = 300.0


def verbs(agent: Agent) -> dict[str, Verb]:
    """The table. Validation is `api.arguments`' by these types; names are looked up by the handlers."""
    asked = _Asked(agent)
    work: dict[str, Callable[[Workspace, Operation], Awaitable[dict[str, Any]]]] = {
        "suspend": power.suspend, "stop": power.stop, "off": power.off, "pause": power.pause, "resume": power.resume,
    }  # fmt: skip
    return {
        "hello": Verb(asked.hello),
        "list": Verb(asked.list),
        "receipts": Verb(asked.receipts),
        "info": Verb(asked.info, _WORKSPACE),
        "enrol": Verb(asked.enrol, {"url": (str, ...), "code": (str, ""), "name": (str, ...)}),
        "available": Verb(asked.available),
        "checkout": Verb(asked.checkout, _WORKSPACE | {"stick": (str, "")}),
        "start": Verb(asked.start, _WORKSPACE | {"boot": (bool, False)}),
        **{name: Verb(asked.operation(name, do), _WORKSPACE) for name, do in work.items()},
        "reset": Verb(asked.reset, _WORKSPACE | {"yes": (bool, False)}),
        "remove": Verb(asked.remove, _WORKSPACE | {"yes": (bool, False)}),
        "backup": Verb(asked.backup, _WORKSPACE | {"key": (str, "")}),
        "unlock": Verb(asked.unlock, _WORKSPACE | {"code": (str, ...), "new": (bool, False)}),
        "defer": Verb(asked.defer, _WORKSPACE),
        "backups": Verb(asked.backups, _WORKSPACE),
        "checkin": Verb(asked.checkin, _WORKSPACE | {"stop": (bool, False)}),
        "loss": Verb(asked.loss, _WORKSPACE),
        "discard": Verb(
            asked.discard, _WORKSPACE | {"yes": (bool, False), "backup": (bool, False), "stop": (bool, False)}
        ),
        "disk_info": Verb(asked.operation("disk_info", disks.info), _WORKSPACE),
        "disk_check": Verb(asked.disk_check, _WORKSPACE | {"data": (bool, False)}),
        "disk_survey": Verb(asked.operation("disk_survey", disks.survey), _WORKSPACE),
        "disk_repair": Verb(asked.disk_repair, _WORKSPACE | {"yes": (bool, False), "plan": (str, "")}),
        "disk_resize": Verb(asked.disk_resize, _WORKSPACE | {"size": (int, ...)}),
        "disk_upgrade": Verb(asked.operation("disk_upgrade", disks.upgrade), _WORKSPACE),
        "disk_export": Verb(
            asked.disk_export, _WORKSPACE | {"to": (str, ...), "generation": (int, 0), "key": (str, "")}
        ),
        "disk_import": Verb(asked.disk_import, _WORKSPACE | {"folder": (str, ...), "signer": (str, "")}),
        "device": Verb(asked.device),
        "disk_touched": Verb(asked.operation("disk_touched", base.touched), _WORKSPACE),
        "display": Verb(asked.display, _WORKSPACE),
        "online": Verb(asked.online, _WORKSPACE),
        "apps": Verb(asked.guest("apps"), _WORKSPACE),
        "windows": Verb(asked.guest("windows"), _WORKSPACE),
        "icon": Verb(asked.guest("icon"), _WORKSPACE | {"icon": (str, ...)}),
        "launch": Verb(asked.guest("launch"), _WORKSPACE | {"app": (str, ...)}),
        **{name: Verb(asked.guest(name), _WORKSPACE | {"notice": (int, ...)}) for name in ("tapped", "dismissed")},
        "resize": Verb(
            asked.guest("display"), _WORKSPACE | {"width": (int, ...), "height": (int, ...), "scale": (int, 100)}
        ),
        "layout": Verb(
            asked.guest("layout"),
            _WORKSPACE | {"model": (str, "pc105"), "layout": (str, ...), "variant": (str, ""), "options": (str, "")},
        ),
        "time": Verb(asked.time, _WORKSPACE),
        "jobs": Verb(asked.jobs),
        "job": Verb(asked.job, {"operation": (str, ...), "wait": (float, 0.0)}),
        "cancel": Verb(asked.cancel, {"operation": (str, ...)}),
        "job_pause": Verb(asked.job_pause, {"operation": (str, ...)}),
        "job_resume": Verb(asked.job_resume, {"operation": (str, ...)}),
        "doctor": Verb(asked.doctor),
        "watch": Verb(asked.watch, {"switcher": (bool, False)}, stream=True),
        "switch": Verb(asked.switch, {"workspace": (str, "")}),
        "looking": Verb(asked.looking, {"workspace": (str, ...)}),
        "screen": Verb(asked.screen, {"on": (bool, ...)}),
        "quit": Verb(asked.quit, {"suspend": (bool, False)}),
    }


class _Asked:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def hello(self) -> Answer:
        return Answer({"agent": twofold.__version__, "api": API, "extensions": list(EXTENSIONS)})

    async def list(self) -> Answer:
        return Answer({"workspaces": [ws.to_wire() for ws in self._agent.registry.all()]})

    async def receipts(self) -> Answer:
        return Answer({"receipts": await asyncio.to_thread(self._agent.registry.receipts.all)})

    async def info(self, workspace: str) -> Answer:
        return Answer(self._agent.registry.get(workspace).to_wire())

    async def enrol(self, url: str, code: str, name: str) -> Answer:
        title(name, "a device")
        if code and "#" not in url:
            url = f"{url}#{code}"
        enrolment = await asyncio.to_thread(self._agent.rooms.enrol, url, name)
        return Answer(
            {"device": self._agent.rooms.identity.device, "company": enrolment.company, "user": enrolment.user}
        )

    async def available(self) -> Answer:
        remote = await asyncio.to_thread(self._agent.rooms.remote)
        grants = await asyncio.to_thread(remote.grants)
        return Answer({"grants": [dataclasses.asdict(grant) for grant in grants]})

    async def checkout(self, workspace: str, stick: str) -> Answer:
        from twofold.agent.checkout import checkout

        name = slug(workspace, "a workspace")
        return self._submit("checkout", name, {}, lambda op: checkout(self._agent.registry, name, op, stick))

    async def start(self, workspace: str, boot: bool) -> Answer:
        ws = self._agent.registry.get(workspace)
        return self._submit("start", ws.name, {"boot": boot}, lambda op: power.start(ws, op, boot=boot))

    def operation(
        self, name: str, do: Callable[[Workspace, Operation], Awaitable[dict[str, Any]]]
    ) -> Callable[..., Awaitable[Answer]]:
        async def asked(workspace: str) -> Answer:
            ws = self._agent.registry.get(workspace)
            return self._submit(name, ws.name, {}, lambda op: do(ws, op))

        return asked

    async def remove(self, workspace: str, yes: bool) -> Answer:
        from twofold.agent import leaving

        ws = self._agent.registry.get(workspace)
        return self._submit(
            "remove", ws.name, {"yes": yes}, lambda op: leaving.remove(self._agent.registry, ws, op, yes=yes)
        )

    async def reset(self, workspace: str, yes: bool) -> Answer:
        from twofold.agent import change

        ws = self._agent.registry.get(workspace)
        return self._submit("reset", ws.name, {"yes": yes}, partial(change.reset, ws, yes=yes))

    async def backup(self, workspace: str, key: str) -> Answer:
        from twofold.agent import backup

        ws, operations = self._agent.registry.get(workspace), self._agent.operations
        public = hex_bytes(key, 32, "a device's public key") if key else b""
        work = partial(backup.asked, ws, turn=operations.turn(ws.name), public=public)
        return self._submit("backup", ws.name, {"key": key, "why": backup.PERSON}, work, TRANSFER)

    async def unlock(self, workspace: str, code: str, new: bool) -> Answer:
        from twofold.agent import unlock

        ws = self._agent.registry.get(workspace)
        if new:
            await unlock.choose(ws, code)
        else:
            await unlock.unlock(ws, code, partial(self._agent.erase, ws))
        return Answer({"code": ws.code()})

    async def defer(self, workspace: str) -> Answer:
        from twofold.agent import backup

        ws = self._agent.registry.get(workspace)
        until = backup.defer(ws)
        for each in self._agent.operations.under_way(ws.name, TRANSFER):
            if each.verb == "backup" and each.args.get("why") == backup.SCHEDULE:
                each.cancel()
        return Answer({"until": until})

    async def backups(self, workspace: str) -> Answer:
        from twofold.agent.past import Past

        ws = self._agent.registry.get(workspace)
        rows = await asyncio.to_thread(lambda: Past(ws.rooms.remote()).listed(ws.name))
        return Answer({"backups": rows})

    async def checkin(self, workspace: str, stop: bool) -> Answer:
        from twofold.agent import leaving

        ws, registry = self._agent.registry.get(workspace), self._agent.registry
        args = {"stop": True} if stop else {}
        return self._submit(
            "checkin",
            ws.name,
            args,
            lambda op: leaving.check_in(registry, ws, op, self._leaving(ws, op, stop)),
            TRANSFER,
        )

    def _leaving(self, ws: Workspace, op: Operation, stop: bool) -> AbstractAsyncContextManager[Any]:
        from twofold.agent.closing import closed

        operations = self._agent.operations
        return closed(ws, op, operations) if stop else operations.turn(ws.name)

    async def loss(self, workspace: str) -> Answer:
        from twofold.agent import leaving

        ws = self._agent.registry.get(workspace)
        return self._submit("loss", ws.name, {}, lambda op: leaving.loss(ws, op))

    async def discard(self, workspace: str, yes: bool, backup: bool, stop: bool) -> Answer:
        from twofold.agent import leaving

        ws, registry, operations = self._agent.registry.get(workspace), self._agent.registry, self._agent.operations
        turn, args = operations.turn(ws.name), {"yes": yes, "backup": backup, "stop": stop}
        if backup:

            async def work(op: Operation) -> dict[str, Any]:
                return await leaving.check_in(registry, ws, op, self._leaving(ws, op, stop), may="discard")

            return self._submit("discard", ws.name, args, work, TRANSFER)
        if any(each.verb != "discard" for each in operations.under_way(ws.name, TRANSFER)):
            raise ConflictError(
                f"{ws.title} is being backed up.",
                safe="Nothing was changed.",
                next="Wait until that has ended, or cancel it:  twofold jobs list",
            )
        return self._submit(
            "discard", ws.name, args, partial(leaving.discard, registry, ws, turn=turn, yes=yes), TRANSFER
        )

    async def disk_check(self, workspace: str, data: bool) -> Answer:
        ws = self._agent.registry.get(workspace)
        return self._submit("disk_check", ws.name, {"data": data}, lambda op: disks.check(ws, op, data=data))

    async def disk_repair(self, workspace: str, yes: bool, plan: str) -> Answer:
        ws = self._agent.registry.get(workspace)
        args = {"yes": yes, "plan": plan}
        return self._submit("disk_repair", ws.name, args, lambda op: disks.repair(ws, op, yes=yes, plan=plan))

    async def disk_resize(self, workspace: str, size: int) -> Answer:
        from twofold.agent import growth

        ws = self._agent.registry.get(workspace)
        return self._submit("disk_resize", ws.name, {"size": size}, partial(growth.resize, ws, size=size))

    async def disk_export(self, workspace: str, to: str, generation: int, key: str) -> Answer:
        from twofold.agent.moving import export

        ws = self._agent.registry.get(workspace)
        args = {"to": to, "generation": generation, "key": key}
        return self._submit(
            "disk_export", ws.name, args, lambda op: export(ws, op, to=to, generation=generation, key=key)
        )

    async def disk_import(self, workspace: str, folder: str, signer: str) -> Answer:
        from twofold.agent.moving import import_

        name, registry = slug(workspace, "a workspace"), self._agent.registry
        args = {"folder": folder, "signer": signer}
        return self._submit(
            "disk_import", name, args, lambda op: import_(registry, name, op, folder=folder, signer=signer)
        )

    async def device(self) -> Answer:
        rooms = self._agent.rooms
        wrapping = await asyncio.to_thread(rooms.vault.device_key)
        return Answer({"device": rooms.identity.device, "key": wrapping.hex()})

    async def display(self, workspace: str) -> Answer:
        ws = self._agent.registry.get(workspace)
        ws.whole()
        if ws.machine is None:
            raise ConflictError(f"{ws.title} is {ws.run}.", next=f"Start it:  twofold start {ws.name}")
        return Answer({}, give=(await ws.machine.display(),))

    async def online(self, workspace: str) -> Answer:
        """The page on which a workspace is shown in a browser; it may be on no device at all."""
        name = slug(workspace, "a workspace")
        ws = self._agent.registry.find(name)
        if ws is not None and ws.lease is not None:
            raise ConflictError(
                f"{ws.title} is on this device.",
                safe="Nothing was changed.",
                next=f"Open it here:  twofold open {name}   or check it in first:  twofold checkin {name}",
            )
        remote = await asyncio.to_thread(self._agent.rooms.remote)
        return Answer({"url": f"{remote.enrolment.place.origin}/online/desktop/{name}"})

    def guest(self, verb: str) -> Callable[..., Awaitable[Answer]]:
        async def asked(workspace: str, **args: Any) -> Answer:
            return Answer(await self._guest(workspace).call(verb, **args))

        return asked

    async def time(self, workspace: str) -> Answer:
        guest = self._guest(workspace)
        before = time.time_ns()
        answer = await guest.call("time", unix_ms=0)
        middle = (before + time.time_ns()) // 2  # the guest read its clock about half-way
        return Answer({"guest_unix_ms": answer["unix_ms"], "host_unix_ms": middle // 1_000_000})

    def _guest(self, workspace: str) -> Guest:
        ws = self._agent.registry.get(workspace)
        _, image = ws.whole()
        if ws.machine is None:
            raise ConflictError(f"{ws.title} is {ws.run}.", next=f"Start it:  twofold start {ws.name}")
        if not image.has_agent or ws.guest is None:
            raise ConflictError(
                f"The system in {ws.title} has no guest agent.", next="Its screen, keyboard and power work without."
            )
        return ws.guest

    async def jobs(self) -> Answer:
        return Answer({"operations": [operation.to_wire() for operation in self._agent.operations.all()]})

    async def job(self, operation: str, wait: float) -> Answer:
        if not 0 <= wait <= _WAIT_LIMIT:
            raise UsageError(f"The argument wait lies between 0 and {_WAIT_LIMIT:g} seconds.")
        found = self._agent.operations.get(operation)
        if wait:
            await found.wait(wait)
        return Answer(found.to_wire())

    async def cancel(self, operation: str) -> Answer:
        found = self._agent.operations.get(operation)
        found.cancel()
        return Answer(found.to_wire())

    async def job_pause(self, operation: str) -> Answer:
        found = self._agent.operations.get(operation)
        found.pause()
        return Answer(found.to_wire())

    async def job_resume(self, operation: str) -> Answer:
        found = self._agent.operations.get(operation)
        found.resume()
        return Answer(found.to_wire())

    async def doctor(self) -> Answer:
        from twofold.agent.doctor import checks

        found = await checks(self._agent.dirs, self._agent.rooms, self._agent.registry.all())
        return Answer({"checks": [dataclasses.asdict(check) for check in found]})

    async def watch(self, switcher: bool) -> Answer:
        # QEMU's display has one holder: two switchers, on two screens of one person, would take it from each other.
        if switcher and self._agent.switcher_open:
            raise ConflictError(
                "The switcher is open already.",
                safe="It goes on as it was.",
                next="Bring it to the front:  twofold switch WORKSPACE  (or close it first)",
            )
        if switcher:  # once it listens
            asyncio.get_running_loop().call_soon(self._agent.tell_notices)
        return Answer({})

    async def switch(self, workspace: str) -> Answer:
        """Tell an open switcher to come to the front; it watches, and it alone decides where keys go."""
        if workspace not in ("", "personal"):
            self._agent.registry.get(workspace)
        return Answer({"shown": self._agent.tell_switchers({"event": "switch", "workspace": workspace})})

    async def looking(self, workspace: str) -> Answer:
        """The switcher says what it has in front of the person; empty: their own side."""
        if workspace:
            self._agent.registry.get(workspace)
        self._agent.eyes.look(workspace)
        return Answer({})

    async def screen(self, on: bool) -> Answer:
        self._agent.eyes.light(on=on)
        begun = self._agent.screen.turn(self._agent.registry.all(), on=on)
        return Answer({"operations": [operation.to_wire() for operation in begun]})

    async def quit(self, suspend: bool) -> Answer:
        await self._agent.wind_down(suspend=suspend)
        return Answer({})

    def _submit(
        self,
        verb: str,
        workspace: str,
        args: Mapping[str, Any],
        work: Callable[[Operation], Awaitable[dict[str, Any]]],
        lane: str = "",
    ) -> Answer:
        return Answer(self._agent.operations.submit(verb, workspace, args, work, lane).to_wire())
