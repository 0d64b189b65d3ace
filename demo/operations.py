"""What becomes of a workspace after its check-out: backed up, locked and unlocked, discarded and had again, given back."""

from __future__ import annotations

import time
from typing import Any

from demo.stage import PERSON, WORKSPACE
from demo.story import MOUSEPAD, REPORT, Story, require_same
from twofold.model.errors import RefusedError
from twofold.server.client import Admin

KEPT = "Dear team,\n\nthe figures for the third quarter are in the sheet.\n"
REGRETTED = "On second thoughts: they are not.\n"


class Operations(Story):
    """`admin` is the company's administrator at the server."""

    admin: Admin

    def after_check_out(self) -> None:
        """With the editor in front. At the end a fresh boot, the editor with what was backed up, alone on its desktop."""
        desk, hands = self.desk, self.desk.hands
        hands.key("a", "Control_L")
        hands.key("Delete")
        desk.wait_still(10)
        blank = self.text()
        hands.type(KEPT, 0.02)
        self.save_as(REPORT)
        kept = self.text()
        self.back_up()
        hands.type(REGRETTED, 0.02)
        self.save()
        desk.shot("regretted")
        self.lock_and_unlock()
        self.discard()
        self.boot("boot_again", "from-the-back-up")
        self.launch(MOUSEPAD, by="keys")
        self.open(REPORT)
        require_same(self.text(), kept, blank, "the report after the discard")
        desk.shot("as-it-was-backed-up")
        self.stage.say("Had again: the text is as it was backed up", self.times["boot_again_to_desktop"])

    def back_up(self) -> None:
        """As a person does it: on the pill that says how old the server's copy is."""
        desk, began = self.desk, time.monotonic()
        before = self.info("whereabouts")["on_server_at"]
        desk.hands.click(*desk.said["spots"]["server"])
        self._banner("backup")
        desk.hands.click(*desk.said["spots"]["backup"])
        pressed = time.monotonic()
        while self.info("whereabouts")["on_server_at"] == before:
            if time.monotonic() > pressed + 60:
                raise TimeoutError(f"it is not on the server: {self.info()}")
            time.sleep(0.01)
        self.times["back_up"] = round(time.monotonic() - pressed, 3)
        (job,) = [job for job in self.client.call("jobs")["operations"] if job["verb"] == "backup"][-1:]
        assert job["result"]["frozen"], "the guest's file systems did not stand still"
        time.sleep(0.2)
        desk.shot("backed-up")
        desk.hands.click(*desk.said["spots"]["close"])
        desk.wait_said("banner", "", 5)
        desk.hands.move(desk.server.width // 2, desk.server.height // 2)
        self.stage.say(
            f"Backed up while it ran, {job['result']['sent_bytes'] / 1e6:.1f} MB sent", self.times["back_up"]
        )
        self.times["back_up_asked_to_read"] = round(time.monotonic() - began, 3)

    def _banner(self, button: str) -> None:
        deadline = time.monotonic() + 5
        while button not in self.desk.said.get("spots", {}):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no banner has a button for {button}: {self.desk.said}")
            time.sleep(0.005)

    def lock_and_unlock(self) -> None:
        desk, number = self.desk, self.admin.find_workspace(PERSON, WORKSPACE)["number"]
        live, began = desk.guest.copy(), time.monotonic()
        self.admin.ask(number, "lock")
        desk.wait_said("run", "suspended", 30)
        self.times["lock_to_screen"] = round(time.monotonic() - began, 3)
        desk.screen.wait(lambda _: float((desk.guest != live).mean()) > 0.5, 5)
        receipt = self._receipt(number)
        time.sleep(0.3)
        desk.shot("locked")
        try:
            self.client.finish("start", workspace=WORKSPACE)
            raise AssertionError("it starts although it is locked")
        except RefusedError as locked:
            self.stage.say(locked.happened, self.times["lock_to_screen"])
        began = time.monotonic()
        self.admin.ask(number, "unlock")
        self._receipt(number)
        self.client.finish("start", workspace=WORKSPACE)
        desk.wait_said("live", True, 30)
        self.times["unlock_to_live"] = round(time.monotonic() - began, 3)
        self.stage.say(f"Unlocked, and as it was. ({receipt['detail']})", self.times["unlock_to_live"])

    def _receipt(self, number: int) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while (receipt := self.admin.list_asked(number)[0]["receipt"]) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("no receipt came")
            time.sleep(0.02)
        assert receipt["result"] == "done", receipt
        found: dict[str, Any] = receipt
        return found

    def discard(self) -> None:
        desk = self.desk
        loss = self.client.finish("loss", workspace=WORKSPACE)["result"]
        assert loss["open"] and loss["changed"] and loss["backed_up"], loss
        self.stage.job(
            "discard",
            f"Discarded: {loss['changed'] / 1e6:.1f} MB that were not backed up",
            self.client,
            "discard",
            yes=True,
        )
        time.sleep(0.5)
        desk.shot("discarded")
        came = self.stage.job("checkout_again", "Checked out again, from the back up", self.client, "checkout")
        assert came["from"] == loss["backed_up"], came

    def check_in(self) -> None:
        """The workspace goes back; nothing of it stays here."""
        desk, began = self.desk, time.monotonic()
        self.client.finish("stop", workspace=WORKSPACE)
        self.times["stop"] = round(time.monotonic() - began, 3)
        done = self.stage.job("check_in", "Shut down and checked in", self.client, "checkin")
        assert done["receipt"]["key_destroyed"], done
        assert self.client.call("list")["workspaces"] == []
        row = self.admin.find_workspace(PERSON, WORKSPACE)
        assert (row["status"], row["head"]) == ("checked-in", done["id"]), row
        time.sleep(0.5)
        desk.shot("checked-in")
