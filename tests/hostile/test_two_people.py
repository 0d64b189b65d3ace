"""Two people with accounts of their own on one machine, each with an agent and a running workspace, keep what is theirs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.company import TREE, Company

pytestmark = [pytest.mark.vm, pytest.mark.root]

# Run as somebody: try everything, one word a line. Standard library only, nothing of ours.
_INTRUDER = """
import ctypes, json, os, socket, stat, sys
found, libc = json.load(sys.stdin), ctypes.CDLL(None, use_errno=True)
def tried(kind, what, attempt):
    try:
        attempt()
        print(json.dumps([kind, what, "reached"]))
    except OSError as refused:
        print(json.dumps([kind, what, type(refused).__name__]))
def dial(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(3)
        sock.connect(path)
        sock.sendall(b'{"id":1,"do":"list","args":{}}\\n')
        if not sock.recv(1):
            raise ConnectionResetError
def touch(path):
    if stat.S_ISDIR(os.lstat(path).st_mode): os.listdir(path)
    else: open(path, "rb").close()
def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), "refused")
def vm_readv(pid):
    word = ctypes.create_string_buffer(8)
    class Piece(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    here, there = Piece(ctypes.addressof(word), 8), Piece(found["address"][str(pid)], 8)
    checked(libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
def trace(pid):
    checked(libc.ptrace(16, pid, None, None))
    os.waitpid(pid, 0x40000000); libc.ptrace(17, pid, None, None)
def take_fd(pid):
    checked(libc.syscall(438, os.pidfd_open(pid), 0, 0))
for path in found["sockets"]: tried("socket", path, lambda: dial(path))
for path in found["files"]: tried("file", path, lambda: touch(path))
for name, pid in found["processes"].items():
    tried("memory", name, lambda: open(f"/proc/{pid}/mem", "rb").close())
    tried("descriptors", name, lambda: os.listdir(f"/proc/{pid}/fd"))
    tried("environment", name, lambda: open(f"/proc/{pid}/environ", "rb").read())
    tried("readv", name, lambda: vm_readv(pid))
    tried("pidfd_getfd", name, lambda: take_fd(pid))
    tried("signal", name, lambda: os.kill(pid, 0))
    tried("ptrace", name, lambda: trace(pid))
"""


@dataclass
class Account:
    """A system user made for the test."""

    name: str
    home: Path

    def run(self, *words: str, stdin: str = "", check: bool = True) -> str:
        drop = ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups", "--no-new-privs"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8", "PYTHONPATH": str(TREE / "src"),
               "XDG_RUNTIME_DIR": str(self.home / "run"), "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        done = subprocess.run(
            [*drop, *words], env=env, cwd="/", input=stdin, capture_output=True, text=True, timeout=100, check=False
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def wait_gone(self) -> None:
        """Until no process of this user is left; those that became our children are cleared away, else userdel counts them."""
        deadline = time.monotonic() + 20
        while left := [entry for entry in Path("/proc").glob("[0-9]*") if _owner(entry) == self.home.stat().st_uid]:
            assert time.monotonic() < deadline, left
            for entry in left:
                with suppress(ChildProcessError):
                    os.waitpid(int(entry.name), os.WNOHANG)
            time.sleep(0.05)

    def twofold(self, *words: str) -> Any:
        return json.loads(self.run(sys.executable, "-m", "twofold.cli", *words, "-o", "json"))

    def belongings(self) -> dict[str, Any]:
        """What there is to reach: sockets, files, and the processes with an address in each one's memory."""
        paths = [
            path for root in (self.home / ".local", self.home / ".cache", self.home / "run") for path in root.rglob("*")
        ]
        sockets = [str(path) for path in paths if stat.S_ISSOCK(path.lstat().st_mode)]
        workspace = next(path for path in (self.home / "run").rglob("vault.json"))
        processes = {
            "vault": json.loads(workspace.read_text())["pid"],
            "qemu": json.loads((workspace.parent / "machine.json").read_text())["pid"],
        }
        uid = self.home.stat().st_uid
        for entry in Path("/proc").glob("[0-9]*"):
            if _owner(entry) == uid and b"twofold.agent" in (entry / "cmdline").read_bytes().split(b"\0"):
                processes["agent"] = int(entry.name)
        address = {pid: int(Path(f"/proc/{pid}/maps").read_text().split("-")[0], 16) for pid in processes.values()}
        files = [str(path) for path in paths if str(path) not in sockets]
        return {"sockets": sockets, "files": files, "processes": processes, "address": address}


def _owner(process: Path) -> int:
    """By its credentials: the folder of an undumpable process belongs to root."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return -1
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Account, Account]]:
    """Alex with the workspace `alpha`, Billie with `beta`; both run. The accounts go with the test."""
    with ExitStack() as undo:
        company = undo.enter_context(Company(tmp_path_factory.mktemp("company")))
        company.publish("tiny")
        made = []
        for person, workspace in (("alex", "alpha"), ("billie", "beta")):
            name = f"tf-{person}-{os.getpid()}"
            home = (
                Path("/var/tmp") / name
            )  # pytest's own folders are closed to others, and so is nothing of ours by that
            subprocess.run(["useradd", "--create-home", "--home-dir", home, "--user-group", name], check=True)
            undo.callback(subprocess.run, ["userdel", "--remove", name], check=True, capture_output=True)
            account = Account(name, home)
            undo.callback(account.wait_gone)
            home.chmod(0o755)  # as open as many systems make it: what is below must hold by itself
            account.run("install", "-d", "-m", "755", str(home / "run"))
            company.grant(company.user(person), "tiny", workspace, "blue")
            account.run(sys.executable, "-m", "twofold.cli", "enrol", company.admin.invite_device(person))
            undo.callback(account.run, sys.executable, "-m", "twofold.cli", "agent", "quit")
            account.twofold("checkout", workspace)
            account.twofold("start", workspace)
            undo.callback(account.run, sys.executable, "-m", "twofold.cli", "off", workspace, "--yes")
            made.append(account)
        yield made[0], made[1]


def attempts(who: Account, whose: Account) -> dict[tuple[str, str], str]:
    said = who.run("/usr/bin/python3", "-c", _INTRUDER, stdin=json.dumps(whose.belongings()))
    return {(kind, what): came for kind, what, came in map(json.loads, said.splitlines())}


def test_neither_reaches_anything_of_the_other(people: tuple[Account, Account]) -> None:
    for who, whose in (people, people[::-1]):
        found = attempts(who, whose)
        kinds = {kind for kind, _ in found}
        assert kinds == {
            "socket", "file", "memory", "descriptors", "environment", "readv", "pidfd_getfd", "signal", "ptrace"
        }  # fmt: skip
        assert {Path(what).name for kind, what in found if kind == "socket"} >= {"agent.sock", "qmp.sock", "vault.sock"}
        assert {what for kind, what in found if kind == "memory"} == {"agent", "qemu", "vault"}
        # The folders that XDG itself has above ours may be looked at; ours and all below may not.
        above = {
            str(whose.home / name)
            for name in (".local", ".local/state", ".cache", ".local/state/twofold", ".cache/twofold")
        }
        reached = {each for each, came in found.items() if came == "reached" and each[1] not in above}
        assert not reached
    # The same attempts by the owner get somewhere: it is the account that decides, not a mistake in the attempt.
    own = attempts(people[0], people[0])
    assert own["socket", str(people[0].home / "run/twofold/agent.sock")] == "reached"
    assert all(came == "reached" for (kind, _), came in own.items() if kind in ("file", "signal"))
    assert own["readv", "qemu"] == own["memory", "qemu"] == own["descriptors", "qemu"] == "reached"
    # But for the process that has the keys: into that one its own user can't look either.
    assert {own[how, "vault"] for how in ("readv", "memory", "descriptors", "environment")} == {"PermissionError"}


def test_each_sees_their_own_alone(people: tuple[Account, Account]) -> None:
    for account, mine, other in ((people[0], "alpha", "beta"), (people[1], "beta", "alpha")):
        listed = account.twofold("list")
        assert [each["workspace"] for each in listed["workspaces"]] == [mine]
        assert listed["available"] == []
        assert account.twofold("info", mine)["run"] == "running"
        for words in (("info", other), ("start", other), ("checkout", other), ("switch", other)):
            said = subprocess.run(
                ["setpriv", "--reuid", account.name, "--regid", account.name, "--init-groups", "--no-new-privs",
                 sys.executable, "-m", "twofold.cli", *words],
                env={"PATH": os.environ["PATH"], "HOME": str(account.home), "PYTHONPATH": str(TREE / "src"),
                     "XDG_RUNTIME_DIR": str(account.home / "run")},
                cwd="/", capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert said.returncode == 4, (words, said.stderr)


def test_a_symlink_or_an_open_folder_in_place_of_ones_own_is_refused(people: tuple[Account, Account]) -> None:
    """Billie points her runtime folder at Alex's: her agent's client looks at whose folder it is."""
    alex, billie = people
    done = billie.run(
        "/usr/bin/env",
        f"XDG_RUNTIME_DIR={alex.home / 'run'}",
        sys.executable,
        "-m",
        "twofold.cli",
        "status",
        check=False,
    )
    assert "alpha" not in done
