"""What is done to a workspace, each from a state that can be had again, and what must be true after it whatever went wrong."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.matrix.stage import Stage, until
from twofold.agent.client import Client
from twofold.model.errors import ConflictError, NotFoundError, TwofoldError, UnreachableError, from_wire

SIZE = 192 << 10
_ROUND = 60.0


@dataclass(frozen=True)
class Ended:
    """How it ended for whoever asked: `done`, `failed` with words, `cancelled`, or `gone` with the agent."""

    state: str
    error: TwofoldError | None = None


class Deed(ABC):
    """One operation. `begin` asks for it; `look` answers how it ended, None while it lasts."""

    name = ""
    beats = False  # the company asks for it, and a heartbeat carries it

    @abstractmethod
    def before(self, stage: Stage) -> None:
        """Bring the stage to where this can be done, with work in it that is told apart."""

    @abstractmethod
    def begin(self, stage: Stage) -> str: ...

    def look(self, stage: Stage, number: str) -> Ended | None:
        found = self.actor(stage).call("job", operation=number, wait=0.05)
        if found["state"] in ("queued", "running"):
            return None
        return Ended(found["state"], from_wire(found["error"]) if found["error"] else None)

    def actor(self, stage: Stage) -> Client:
        return stage.client

    def done(self, stage: Stage, ended: Ended) -> bool:
        """Whether it has its effect."""
        return ended.state == "done"

    @abstractmethod
    def after(self, stage: Stage) -> None:
        """Nothing that was acknowledged is lost."""

    def branches(self, stage: Stage) -> int:
        """How many generations beside the line there may be."""
        return 0


def written(stage: Stage) -> bytes:
    """New work in the disks here."""
    data = os.urandom(SIZE)
    stage.vault.write(data)
    stage.facts["fresh"] = data
    return data


def saved(stage: Stage) -> bytes:
    """Work that the server has acknowledged."""
    stage.checkout()
    data = written(stage)
    stage.backup()
    stage.facts["saved"] = data
    return data


def proven(stage: Stage, data: bytes) -> None:
    """It is in the disks here."""
    found = stage.read(len(data))
    assert found == data, f"lost: {sum(a != b for a, b in zip(found, data, strict=True))} of {len(data)} bytes differ"


def submitted(client: Client, verb: str, **args: Any) -> str:
    return str(client.call(verb, workspace="work", **args)["operation"])


class CheckOut(Deed):
    """Nothing was ever backed up."""

    name = "check out"

    def before(self, stage: Stage) -> None:
        stage.discard()

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "checkout")

    def done(self, stage: Stage, ended: Ended) -> bool:
        return stage.here()

    def after(self, stage: Stage) -> None:
        proven(stage, bytes(SIZE))
        found = stage.client.finish("disk_check", workspace="work", data=True)["result"]
        assert [each["lost"]["bytes"] for each in found["devices"]] == [0]


class CheckOutAgain(CheckOut):
    """It goes on from this device's own back up."""

    name = "check out a back up"

    def before(self, stage: Stage) -> None:
        if "saved" not in stage.facts:
            saved(stage)
        stage.discard()

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["saved"])


class CarryOn(CheckOutAgain):
    """Another device wrote it and was lost; its lease is broken and this one goes on."""

    name = "re-enrol"

    def before(self, stage: Stage) -> None:
        if "saved" not in stage.facts:
            other = stage.other()
            stage.client.call("device")
            other.finish("checkout", workspace="work", limit=60)
            from tests.fault.test_moving import Vault

            data = os.urandom(SIZE)
            Vault(stage.spare, stage.vault.runtime).write(data)
            other.finish("backup", workspace="work", key=stage.client.call("device")["key"], limit=60)
            stage.facts["saved"] = data
            stage.spare.kill()
            stage.facts["lost"] = True
        stage.discard()
        if stage.facts.pop("lost", False):
            admin = stage.company.admin
            admin.break_lease(stage.number, admin.loss(stage.number)["loss"], "lost on a train")


class BackUp(Deed):
    name = "back up"

    def before(self, stage: Stage) -> None:
        stage.checkout()
        written(stage)
        stage.facts["head"] = stage.row()["head"]

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "backup")

    def done(self, stage: Stage, ended: Ended) -> bool:
        return bool(stage.row()["head"] != stage.facts["head"])

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["fresh"])
        stage.discard()
        stage.checkout()
        proven(stage, stage.facts["fresh"])


class LateBackUp(BackUp):
    """The lease was broken while this device was away: what it sends is kept beside the line."""

    name = "back up too late"

    def before(self, stage: Stage) -> None:
        stage.checkout()
        written(stage)
        admin = stage.company.admin
        admin.break_lease(stage.number, admin.loss(stage.number)["loss"], "lost on a train")
        until(lambda: stage.client.call("info", workspace="work")["error"] is not None, 30)
        stage.facts["branches"] = stage.row()["branches"]

    def done(self, stage: Stage, ended: Ended) -> bool:
        return bool(stage.row()["branches"] > stage.facts["branches"])

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["fresh"])
        admin = stage.company.admin
        rows = [row for row in admin.list_generations(stage.number) if row["kind"] == "branch"]
        newest = max(rows, key=lambda row: (row["committed"], row["number"]))
        admin.restore(stage.number, newest["id"], stage.row()["head"])
        stage.client.finish("remove", workspace="work", yes=True, limit=60)
        stage.checkout()
        proven(stage, stage.facts["fresh"])

    def branches(self, stage: Stage) -> int:
        return int(stage.row()["branches"])


class CheckIn(BackUp):
    name = "check in"

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "checkin")

    def done(self, stage: Stage, ended: Ended) -> bool:
        return not stage.listed() and stage.lease() == ""

    def after(self, stage: Stage) -> None:
        stage.checkout()
        proven(stage, stage.facts["fresh"])


class BackUpAndDiscard(CheckIn):
    name = "back up and discard"

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "discard", backup=True, yes=True)


class Discard(Deed):
    name = "discard"

    def before(self, stage: Stage) -> None:
        if "saved" not in stage.facts:
            saved(stage)
        stage.checkout()
        written(stage)

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "discard", yes=True)

    def done(self, stage: Stage, ended: Ended) -> bool:
        return not stage.listed() and stage.lease() == ""

    def after(self, stage: Stage) -> None:
        stage.checkout()
        proven(stage, stage.facts["saved"])


class Remove(Discard):
    name = "remove"

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "remove", yes=True)

    def done(self, stage: Stage, ended: Ended) -> bool:
        return not stage.listed()

    def after(self, stage: Stage) -> None:
        if not until(lambda: stage.lease() == "", 2):
            stage.device.kill()
            stage.again()
            assert until(lambda: stage.lease() == "", 30), "nobody else can have it"
        super().after(stage)


class Export(Deed):
    name = "export"

    def before(self, stage: Stage) -> None:
        stage.checkout()
        written(stage)

    def begin(self, stage: Stage) -> str:
        key = stage.client.call("device")["key"]
        return submitted(stage.client, "disk_export", to=str(stage.stick), key=key)

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["fresh"])
        stage.client.finish("remove", workspace="work", yes=True, limit=60)
        stage.client.finish("disk_import", workspace="work", folder=str(stage.stick), limit=60)
        proven(stage, stage.facts["fresh"])


class Import(Deed):
    name = "import"

    def before(self, stage: Stage) -> None:
        if not stage.stick.exists():
            stage.checkout()
            written(stage)
            key = stage.client.call("device")["key"]
            stage.client.finish("disk_export", workspace="work", to=str(stage.stick), key=key, limit=60)
            stage.vault.write(os.urandom(SIZE))
            stage.backup()  # so that what the folder has is older than what the server has
            stage.backup()
        if stage.listed():
            stage.client.finish("remove", workspace="work", yes=True, limit=60)

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "disk_import", folder=str(stage.stick))

    def done(self, stage: Stage, ended: Ended) -> bool:
        return stage.here()

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["fresh"])
        stage.backup()
        stage.discard()
        stage.checkout()
        proven(stage, stage.facts["fresh"])


class Asked(Deed):
    """An administrator asks, the device does it, a receipt comes back."""

    beats = True
    verb = ""

    def before(self, stage: Stage) -> None:
        if "saved" not in stage.facts:
            saved(stage)
        stage.checkout()
        written(stage)
        stage.facts["head"] = stage.row()["head"]

    def begin(self, stage: Stage) -> str:
        return str(stage.company.admin.ask(stage.number, self.verb)["command"])

    def look(self, stage: Stage, number: str) -> Ended | None:
        (row,) = [row for row in stage.company.admin.list_asked(stage.number) if str(row["command"]) == number]
        stage.facts["command"] = row
        if row["receipt"] is None:
            stage.client.call("hello")  # it lives; else it is gone
            return None
        failed = ConflictError(row["receipt"]["detail"], next="Ask again.", safe="What was backed up.")
        return Ended("done") if row["state"] == "done" else Ended("failed", failed)


class Lock(Asked):
    name, verb = "lock", "lock"

    def done(self, stage: Stage, ended: Ended) -> bool:
        said = stage.client.call("info", workspace="work")["error"]
        return ended.state == "done" and said is not None and "locked" in said["happened"]

    def after(self, stage: Stage) -> None:
        command = stage.company.admin.ask(stage.number, "unlock")["command"]

        def over() -> bool:
            rows = {row["command"]: row["state"] for row in stage.company.admin.list_asked(stage.number)}
            return bool(rows[command] == "done")

        assert until(over, 90), "it was never unlocked"
        proven(stage, stage.facts["fresh"])


class Unlock(Asked):
    name, verb = "unlock", "unlock"

    def before(self, stage: Stage) -> None:
        super().before(stage)
        stage.company.admin.ask(stage.number, "lock")
        until(lambda: stage.client.call("info", workspace="work")["error"] is not None, 60)

    def done(self, stage: Stage, ended: Ended) -> bool:
        return ended.state == "done" and stage.client.call("info", workspace="work")["error"] is None

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["fresh"])


class Wipe(Asked):
    name, verb = "wipe", "wipe"

    def done(self, stage: Stage, ended: Ended) -> bool:
        return not stage.listed() and stage.lease() == ""

    def after(self, stage: Stage) -> None:
        assert not list(stage.device.dirs.state.rglob("*.gone"))
        stage.checkout()
        proven(stage, stage.facts["saved"])


class AskedDiscard(Wipe):
    name, verb = "company discards", "discard"


class AskedGiveBack(Asked):
    name, verb = "company backs up and discards", "replicate-discard"

    def done(self, stage: Stage, ended: Ended) -> bool:
        row = max(stage.company.admin.list_asked(stage.number), key=lambda row: int(row["command"]))
        assert row["state"] != "failed" or stage.listed(), "it is done, and the receipt says that it failed"
        return not stage.listed() and stage.lease() == ""

    def after(self, stage: Stage) -> None:
        stage.checkout()
        proven(stage, stage.facts["fresh"])
        stage.backup()
        stage.facts["saved"] = stage.facts["fresh"]


class Restore(Deed):
    """An administrator goes back to an earlier point; the device goes on from there."""

    name = "restore"

    def before(self, stage: Stage) -> None:
        if "saved" not in stage.facts:
            stage.facts["first"] = saved(stage)
            stage.facts["point"] = stage.row()["head"]
            saved(stage)
        stage.discard()
        stage.facts["head"] = stage.row()["head"]
        stage.facts["restored"] = False

    def begin(self, stage: Stage) -> str:
        if stage.row()["head"] == stage.facts["head"]:
            stage.company.admin.restore(stage.number, stage.facts["point"], stage.facts["head"])
        return submitted(stage.client, "checkout")

    def done(self, stage: Stage, ended: Ended) -> bool:
        return stage.here()

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["first"])


DEEDS: tuple[Callable[[], Deed], ...] = (
    CheckOut, CheckOutAgain, CarryOn, BackUp, LateBackUp, CheckIn, BackUpAndDiscard, Discard, Remove, Export, Import,
    Lock, Unlock, Wipe, AskedDiscard, AskedGiveBack, Restore,
)  # fmt: skip


def attempt(deed: Deed, stage: Stage) -> tuple[str, Ended | None]:
    """Ask for it; how it ended where that is known at once."""
    try:
        return deed.begin(stage), None
    except UnreachableError as gone:
        return "", Ended("gone", gone)
    except TwofoldError as failed:
        return "", Ended("failed", failed)


def looked(deed: Deed, stage: Stage, number: str) -> Ended | None:
    try:
        return deed.look(stage, number)
    except (UnreachableError, NotFoundError) as gone:
        return Ended("gone", gone)
