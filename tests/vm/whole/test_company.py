"""What the company asks for, and what is due, while the real guest runs: locked and unlocked, backed up with its file systems at
rest, backed up asleep, asked to be checked in."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.stage import PERSON, WORKSPACE
from tests.vm.whole.conftest import Sight, Whole, until
from twofold.agent.store import KEY
from twofold.model.errors import ConflictError, RefusedError
from twofold.model.generation import Manifest
from twofold.platform.run import run
from twofold.vault.seam import Contents, Keys
from twofold.vault.store import SealedVault

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
_WRITES = 12  # seconds


def test_a_lock_takes_the_screen_at_once_and_says_why(whole: Whole, desk: Sight) -> None:
    desk.to_work()
    began = time.monotonic()
    asked = whole.ask("lock")
    desk.wait_said("live", False, 30)
    print(f"\nasked to a screen that takes nothing: {time.monotonic() - began:.2f} s")
    assert time.monotonic() - began < 30, "far below the five minutes between two heartbeats"
    receipt = whole.receipt(asked)
    assert receipt["result"] == "done" and "suspended" in receipt["detail"]
    time.sleep(0.5)
    desk.shot("locked")
    info = whole.info()
    assert (info["run"], info["memory_stored"]) == ("suspended", True)
    assert "locked" in info["error"]["happened"]
    with pytest.raises(RefusedError, match="locked"):
        whole.client.finish("start", workspace=WORKSPACE)
    assert whole.receipt(whole.ask("unlock"))["result"] == "done"
    assert whole.info()["error"] is None
    woken = whole.client.finish("start", workspace=WORKSPACE)["result"]
    assert woken["resumed"] is True, "what was open is as it was, not booted anew"
    whole.up(WORKSPACE, "session_up")


def test_it_is_backed_up_asleep_and_wakes_as_it_was(whole: Whole) -> None:
    whole.client.finish("suspend", workspace=WORKSPACE)
    result = whole.client.finish("backup", workspace=WORKSPACE)["result"]
    assert (result["kind"], result["frozen"]) == ("line", False)
    info = whole.info()
    assert (info["run"], info["memory_stored"]) == ("suspended", True)
    resumed = whole.client.finish("start", workspace=WORKSPACE)["result"]
    assert resumed["resumed"] is True
    whole.up(WORKSPACE, "session_up")


def test_a_check_in_while_it_runs_says_what_comes_first(whole: Whole) -> None:
    with pytest.raises(ConflictError) as said:
        whole.client.finish("checkin", workspace=WORKSPACE)
    assert "running" in said.value.happened and "twofold stop" in said.value.next
    assert said.value.safe == "Nothing was changed."
    info = whole.info()
    assert (info["run"], info["custody"]) == ("running", "checked-out")


def test_a_back_up_that_falls_due_while_the_guest_writes_is_a_clean_file_system(
    whole: Whole, desk: Sight, tmp_path: Path
) -> None:
    desk.to_work()
    before = [job["operation"] for job in backups(whole)]
    with writing(whole, desk):
        # The agent's own timer, twelve hours later: it is told by its record that the last back up began long ago.
        whole.client.call("quit")
        whole.client.close()
        until(lambda: not whole.stage.dirs.agent_socket.exists(), "the agent's end")
        state = whole.stage.dirs.workspace(WORKSPACE) / "state.json"
        record = json.loads(state.read_bytes())
        state.write_text(json.dumps(record | {"backup_at": int(time.time()) - 13 * 3600}))
        whole.client = whole.stage.agent()
        until(lambda: bool(backups(whole, before)), "a back up by itself", 60)
        until(lambda: backups(whole, before)[-1]["state"] != "running", "its end", 60)
        (job,) = backups(whole, before)
        assert job["state"] == "done", job
        assert (job["result"]["kind"], job["result"]["frozen"]) == ("line", True)
        print(f"\nsent {job['result']['sent_bytes']} bytes in {job['result']['seconds']} s while the guest wrote")
    disk = restored(whole, job["result"]["id"], tmp_path)
    said = run(["/sbin/e2fsck", "-fn", disk], check=False)
    words = (said.stdout + said.stderr).decode()
    assert said.returncode == 0, words
    # A file system that stood still has nothing left in its journal; any other must be mended by it first.
    assert "skipping journal recovery" not in words, words
    assert "needs_recovery" not in run(["/sbin/dumpe2fs", "-h", disk]).stdout.decode()


def backups(whole: Whole, before: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Begun by itself or not, and since `before`: jobs outlive their agent."""
    jobs = [job for job in whole.client.call("jobs")["operations"] if job["operation"] not in before]
    return [job for job in jobs if job["verb"] == "backup" and job["state"] != "queued"]


@contextmanager
def writing(whole: Whole, desk: Sight) -> Iterator[None]:
    """A program in the guest writes to its user's disk without a pause, and has it flushed each time; it ends by itself."""
    whole.launch("lxterminal")
    until(lambda: "lxterminal" in whole.apps(), "the terminal", 60)
    desk.wait_still(20)
    loop = "while [ $SECONDS -lt $t ]; do head -c 300000 /dev/urandom >n$((i=i+1&7)); sync; done"
    desk.hands.type(f"t=$((SECONDS+{_WRITES})); {loop}; rm n?; exit\n", 0.03)
    time.sleep(1)
    yield
    until(lambda: "lxterminal" not in whole.apps(), "the terminal's end", 90)


def restored(whole: Whole, generation: str, where: Path) -> Path:
    """The user's disk of a back up as a file: from the server's files alone, with this device's key."""
    row = whole.admin.generation(whole.number, generation)
    manifest = Manifest.from_wire(json.loads(base64.b64decode(row["generation"]["payload"])))
    dirs, vault = whole.stage.dirs, where / WORKSPACE / "vault"
    vault.parent.mkdir()
    kept = whole.stage.home / "server/objects/workspaces"
    objects = {path.name.partition(".")[0]: path for path in kept.rglob("*") if path.is_file()}
    vaults = SealedVault(dirs.state / "device", where / "anchors")
    keys = vaults.next_epoch(Keys(WORKSPACE, (dirs.workspace(WORKSPACE) / KEY).read_bytes()))
    with vaults.receiving(vault):
        for file in manifest.files:
            shutil.copyfile(objects[file.digest], vault / file.name)
        vaults.adopt(vault, keys, Contents.of(manifest))
    runtime, disk = where / "r", where / "user.raw"
    runtime.mkdir(mode=0o700)
    opened = vaults.open(vault, keys, runtime)
    try:
        run(["qemu-img", "convert", "-O", "raw", f"nbd+unix:///user?socket={opened.socket}", disk], timeout=60)
    finally:
        opened.close()
    return disk


def test_the_back_ups_are_one_line_of_history(whole: Whole) -> None:
    rows = whole.admin.list_generations(whole.number)
    assert {row["kind"] for row in rows} == {"line"}
    assert whole.admin.find_workspace(PERSON, WORKSPACE)["head"] == rows[0]["id"]
