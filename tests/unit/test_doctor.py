"""What doctor and assurance say: true of this machine, complete, and the same for scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.company import TREE, Device
from twofold.trust.assurance import Facts, Tpm, assurance, facts, tpm

_LATE = 'case "$*" in *"-accel kvm"*) exec sleep 60;; esac\nexec {real} "$@"'
_NEVER = "exec sleep 60"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "device")
    yield made
    made.close()


def qemu(folder: Path, body: str) -> dict[str, str]:
    """A PATH whose QEMU is a script that falls back on the real one."""
    folder.mkdir()
    script = folder / "qemu-system-x86_64"
    script.write_text(f"#!/bin/sh\n{body.format(real=shutil.which(script.name))}\n")
    script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def said(device: Device, *words: str, display: str = "") -> subprocess.CompletedProcess[str]:
    env = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR") if name in os.environ}
    env |= {"TWOFOLD_HOME": str(device.home), "PYTHONPATH": str(TREE / "src")} | (
        {"DISPLAY": display} if display else {}
    )
    return subprocess.run(
        [sys.executable, "-m", "twofold.cli", *words], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_kvm_that_hangs_is_left_for_tcg_within_five_seconds(tmp_path: Path, device: Device) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm that could hang; test_probe.py brings one of its own")
    with device.start(**qemu(tmp_path / "bin", _LATE)) as client:
        began = time.monotonic()
        found = {check["name"]: check for check in client.call("doctor", deadline=30)["checks"]}
        took = time.monotonic() - began
    assert found["accelerator"]["detail"] == "KVM opens but hung on a 64-bit guest; using TCG."
    assert took < 5
    assert said(device, "doctor").returncode == 0


def test_a_qemu_that_never_says_its_version_is_bad_news_in_time(tmp_path: Path, device: Device) -> None:
    with device.start(**qemu(tmp_path / "bin", _NEVER)) as client:
        began = time.monotonic()
        found = {check["name"]: check for check in client.call("doctor", deadline=40)["checks"]}
        assert time.monotonic() - began < 20
    assert found["engine"]["verdict"] == "bad"
    assert found["engine"]["next"]


def test_doctor_says_the_same_to_people_and_to_scripts(device: Device) -> None:
    with device.start():
        people, scripts = said(device, "doctor", display=":99"), said(device, "doctor", "-o", "json", display=":99")
        outside = said(device, "doctor", "-o", "json")
    body = json.loads(scripts.stdout)
    assert body["schema"] == "twofold-checks-1"
    assert [check["name"] for check in body["checks"]] == [
        "accelerator", "engine", "network", "memory", "disk", "swap", "core dumps", "processor share", "sound", "device key",
        "server", "desktop",
    ]  # fmt: skip
    folded = " ".join(people.stdout.split())
    for check in body["checks"]:
        assert check.keys() == {"name", "verdict", "detail", "next"}
        assert check["verdict"] in ("good", "poor", "bad")
        assert (check["verdict"] == "good") == (not check["next"]), check
        assert f"{check['verdict']} {check['name']}" in folded
        if check["name"] not in ("memory", "disk"):  # whose figures move
            assert " ".join(f"{check['detail']} {check['next'] and '→ '}{check['next']}".split()) in folded
    assert max(map(len, people.stdout.splitlines())) <= 100
    assert body["checks"][-1]["detail"].startswith("X11.")
    assert json.loads(outside.stdout)["checks"][-1]["verdict"] == "poor"


def test_assurance_says_what_intruders_can_do_as_the_user_and_as_root(device: Device) -> None:
    people, scripts = said(device, "assurance"), said(device, "assurance", "-o", "json")
    assert people.returncode == scripts.returncode == 0
    body = json.loads(scripts.stdout)
    assert (body["schema"], body["level"]) == ("twofold-assurance-1", "hosted")
    held = {each["against"]: each["held"] for each in body["promises"]}
    assert held["another user of this machine"] is True
    assert held["a program that runs as you"] is held["a program that runs as root"] is False
    folded = " ".join(people.stdout.split())
    assert all(" ".join(each["says"].split()) in folded for each in body["promises"])


def test_assurance_follows_what_the_machine_is() -> None:
    def lacks(found: Facts) -> dict[str, str]:
        return {each.against: each.says for each in assurance(found).promises if not each.held}

    good = lacks(Facts(disk_encrypted=True, swaps=(), tracing=False, tpm=Tpm.NONE))
    poor = lacks(Facts(disk_encrypted=None, swaps=("/dev/sda2",), tracing=True, tpm=Tpm.NONE))
    assert poor.keys() - good.keys() == {"a thief of this machine, switched off", "somebody who reads this disk later"}
    assert "/dev/sda2" in poor["somebody who reads this disk later"]
    assert "memory" in poor["a program that runs as you"]
    assert "memory" not in good["a program that runs as you"]


def test_a_tpm_that_a_program_stands_for_is_told_from_a_chip(tmp_path: Path) -> None:
    seen = tmp_path / "class/tpm"
    seen.mkdir(parents=True)
    assert tpm(tmp_path) is Tpm.NONE
    for place, what in (("platform/MSFT0101:00/tpm/tpm0", Tpm.CHIP), ("virtual/tpm/tpm0", Tpm.CARRIED)):
        (tmp_path / "devices" / place).mkdir(parents=True)
        (seen / "tpm0").unlink(missing_ok=True)
        (seen / "tpm0").symlink_to(tmp_path / "devices" / place)
        assert tpm(tmp_path) is what
    keys = {assurance(Facts(None, (), tracing=True, tpm=each)).key for each in Tpm}
    assert len(keys) == 3 and all("a file that this user can read" in key and key.endswith(".") for key in keys)


def test_an_encrypted_disk_is_seen_through_the_volumes_on_it(tmp_path: Path) -> None:
    number, system = (tmp_path).stat().st_dev, tmp_path / "sys"
    volume, crypt, disk = (system / "devices" / name for name in ("dm-1", "dm-0", "sda3"))
    (volume / "slaves").mkdir(parents=True)
    for below in (crypt, disk):
        below.mkdir()
    (system / "dev/block").mkdir(parents=True)
    (system / f"dev/block/{os.major(number)}:{os.minor(number)}").symlink_to(volume)
    (volume / "slaves" / "sda3").symlink_to(disk)
    assert facts(tmp_path, system=system).disk_encrypted is False
    (volume / "slaves" / "sda3").unlink()
    (volume / "slaves" / "dm-0").symlink_to(crypt)
    (crypt / "dm").mkdir()
    (crypt / "dm" / "uuid").write_text("CRYPT-LUKS2-0123-root\n")
    assert facts(tmp_path, system=system).disk_encrypted is True
    assert facts(tmp_path, system=tmp_path / "nothing").disk_encrypted is None
