"""The command line from an empty machine to a removed workspace, as an administrator and a person would type it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.company import TREE, Device, end, tiny
from tests.unit.test_cli import completed
from twofold.model.image import Arch, Part

pytestmark = pytest.mark.vm


class Typed:
    """Commands in one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        keep = ("PATH", "HOME", "LANG", "XDG_RUNTIME_DIR")
        self.env = {name: os.environ[name] for name in keep if name in os.environ}
        self.env |= {"TWOFOLD_HOME": str(home), "PYTHONPATH": str(TREE / "src")}

    def __call__(self, *words: str, stdin: str = "", code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "twofold.cli", *words],
            env=self.env, input=stdin, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert "\x1b" not in done.stdout + done.stderr
        self.err = done.stderr
        return done.stdout

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*words, "-o", "json"))
        assert str(found["schema"]).startswith("twofold-")
        return found


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Typed]:
    """An administrator with a running server."""
    typed, home, password = Typed(tmp_path / "admin"), tmp_path / "server", secrets.token_urlsafe(18)
    typed("server", "init", "--company", "Acme", "--home", str(home), stdin="short\n", code=11)
    made = json.loads(
        typed("server", "init", "--company", "Acme", "--home", str(home), "-o", "json", stdin=f"{password}\n")
    )
    typed("server", "init", "--home", str(home), stdin=f"{password}\n", code=6)
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "twofold.cli", "server", "run", "--home", str(home), "--port", "18443"],
            env=typed.env, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        url, deadline = "https://127.0.0.1:18443/", time.monotonic() + 30
        while True:
            done = subprocess.run(
                [sys.executable, "-m", "twofold.cli", "login", url, "--pin", made["pin"]],
                env=typed.env, input=f"{password}\n", capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                break
            assert time.monotonic() < deadline, done.stderr
        yield typed
        taken = Typed(tmp_path / "admin")
        taken("server", "run", "--home", str(home), "--port", "18443", code=6)
        assert "Choose another with --port" in taken.err
    finally:
        end(process)


def test_from_nothing_to_a_receipt(admin: Typed, tmp_path: Path) -> None:
    assert admin.json("whoami")["user"] == "admin"
    assert admin.json("server", "status")["answers"] is True
    built = tiny(tmp_path / "build", "tiny")
    # A build's folder, as `image import` makes one of any disk.
    raw = tmp_path / "My Disk.raw"
    raw.write_bytes(built.path("system").read_bytes())
    folder = admin.json("image", "import", str(raw), "--name", "tiny")["folder"]
    published = admin.json("image", "publish", folder)
    assert (published["image"], published["version"], published["fresh"]) == ("tiny", 1, True)
    assert admin.json("image", "publish", folder)["fresh"] is False
    assert admin.json("image", "list")["images"][0]["name"] == "tiny"
    assert admin.json("image", "info", "tiny")["firmware"] in ("bios", "uefi")
    admin("image", "info", "none", code=4)
    admin("user", "create", "alex", stdin="a long enough password\n")
    assert {"alex", "admin"} == {each["name"] for each in admin.json("user", "list")["users"]}
    policy = tmp_path / "policy.json"
    policy.write_text('{"clipboard_to_work": true}')
    admin("grant", "add", "alex", "tiny", "--workspace", "work", "--title", "Acme", "--policy", str(policy))
    admin("grant", "add", "alex", "tiny", "--workspace", "work", "--title", "Acme", code=6)
    assert admin.json("grant", "list")["grants"][0]["workspace"] == "work"
    url = admin("device", "invite", "alex").strip()

    person, device = Typed(tmp_path / "person"), Device(tmp_path / "person")
    try:
        assert "alex" in person("enrol", url, "--name", "Alex's laptop")
        person("enrol", url, "--name", "Somebody else's", code=5)  # an invitation works once
        assert "not here yet" in person("list")
        assert "is on this device" in person("checkout")
        assert "on this device already" in person("checkout", "work")
        assert "boots" in person("start")
        assert "running" in person("status")
        assert person.json("policy", "show")["clipboard_to_work"] is True
        info = person.json("info")
        assert (info["run"], info["title"], info["key"]) == ("running", "Acme", 1)
        assert completed(tmp_path / "person", tmp_path, "stop", "") == ["work"]
        person("apps", code=6)
        assert "no guest agent" in person.err
        assert "suspended" in person("suspend")
        person("stop", code=6)
        assert len(person.err.strip().splitlines()) == 3
        assert "goes on where it was" in person("start")
        person("off", code=2)
        assert "Lost:" in person.err and "Safe:" in person.err
        assert "is off" in person("off", "--yes")
        jobs = person.json("jobs", "list")["operations"]
        assert {"checkout", "start", "suspend", "off"} <= {each["verb"] for each in jobs}
        assert person.json("jobs", "show", jobs[0]["operation"])["verb"] == "checkout"
        names = {check["name"] for check in person.json("doctor")["checks"]}
        assert {
            "accelerator",
            "engine",
            "memory",
            "disk",
            "swap",
            "core dumps",
            "sound",
            "desktop",
            "device key",
        } <= names
        person("switch", "work", code=6)
        devices = admin.json("device", "list")["devices"]
        assert [each["name"] for each in devices] == ["Alex's laptop"]
        person("remove", "work", code=2)
        receipt = person.json("remove", "work", "--yes")["result"]["receipt"]
        assert receipt["key_destroyed"] is True
        assert receipt["sealed_bytes_removed"] > 1 << 19  # the user's disk; the system is the cache's
        (kept,) = person.json("receipts")["receipts"]
        assert {name: kept[name] for name in ("workspace", "verb", "company", "key_destroyed")} == {
            "workspace": "work", "verb": "remove", "company": False, "key_destroyed": True,
        }  # fmt: skip
        assert kept["sealed_bytes_removed"] == receipt["sealed_bytes_removed"]
        assert "removed by you" in person("receipts")
        admin("device", "revoke", devices[0]["device"], "--yes")
        person("checkout", "work", code=5)
        person("agent", "quit")
        admin("grant", "remove", str(admin.json("grant", "list")["grants"][0]["grant"]), "--yes")
        admin("logout")
        admin("whoami", code=5)
    finally:
        device.close()


def test_builds_for_two_kinds_of_machine_are_one_version(admin: Typed, tmp_path: Path) -> None:
    folders = {}
    for arch in Arch:
        built = tiny(tmp_path / arch, "both", arch=arch)
        said = {name: value for name, value in built.manifest.to_wire().items() if name != "schema"}
        (built.folder / "manifest.json").write_text(json.dumps(said))
        built.path("system").rename(built.path("system.raw"))
        folders[arch] = str(built.folder)
    amd64, arm64 = folders[Arch.AMD64], folders[Arch.ARM64]
    assert admin.json("image", "publish", arm64, amd64)["version"] == 1
    assert "amd64, arm64" in admin("image", "versions", "both")
    admin("image", "publish", amd64, arm64, "--add-to", "1", code=2)
    admin("image", "publish", arm64, "--add-to", "1", code=6)  # it is on a channel
    stick = tmp_path / "stick"
    both = admin.json("image", "export", "both", "--to", str(stick / "both"))["bytes"]
    assert 0 < admin.json("image", "export", "both", "--to", str(stick / "arm64"), "--arch", "arm64")["bytes"] < both
    other = os.urandom(1 << 20)
    (tmp_path / "amd64" / "system.raw").write_bytes(other)
    manifest = tmp_path / "amd64" / "manifest.json"
    changed = [dataclasses.asdict(Part("system", len(other), hashlib.sha256(other).hexdigest()))]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"parts": changed}))
    admin("image", "publish", amd64, "--share", "0")
    assert "has nothing for arm64, which the version before had" in admin.err
    admin("image", "publish", arm64, "--add-to", "2")
    assert admin.json("image", "list")["images"][0]["architectures"] == ["amd64", "arm64"]
