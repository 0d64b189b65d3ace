"""Spec in, command line out: golden files. TWOFOLD_GOLDEN=write renews them; read the difference before committing it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from twofold.engine.devices import Handed, words
from twofold.engine.hardware import QEMU, Options, command, cpu, machine_type
from twofold.engine.hosted import memory_file
from twofold.model.errors import UsageError
from twofold.model.image import Arch, Firmware
from twofold.model.machine import Accelerator, Disk, Spec

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "qemu"

OURS = Spec(
    "work", Arch.AMD64, Firmware.DIRECT, 1024, 2,
    (Disk("system", "vda", 1 << 30, read_only=True), Disk("user", "vdb", 1 << 32, read_only=False)), "quiet a=b,c",
)  # fmt: skip
THEIRS = Spec(
    "windows", Arch.AMD64, Firmware.UEFI, 4096, 2, (Disk("disk", "sda", 1 << 35, read_only=False),), agent_channel=False
)
HANDED = Handed(10, 11, 19, {"system": 12, "user": 13, "disk": 14}, 15, 16, 17, 18, Path("/run/n.sock"))
TCG = Options(Accelerator.TCG)

CASES = {
    "direct-amd64": (OURS, TCG),
    "direct-amd64-resume": (OURS, Options(Accelerator.TCG, stopped=True, incoming=True)),
    "direct-amd64-kvm-locked": (OURS, Options(Accelerator.KVM, lock=True)),
    "direct-arm64": (dataclasses.replace(OURS, arch=Arch.ARM64), TCG),
    "direct-arm64-kvm": (dataclasses.replace(OURS, arch=Arch.ARM64), Options(Accelerator.KVM)),
    "silent": (dataclasses.replace(OURS, sound=False, width=412, height=915), TCG),
    "uefi-amd64": (THEIRS, TCG),
    "uefi-arm64": (dataclasses.replace(THEIRS, arch=Arch.ARM64), TCG),
    "network-direct-amd64": (dataclasses.replace(OURS, network=True), TCG),
    "network-bios-amd64": (dataclasses.replace(THEIRS, firmware=Firmware.BIOS, network=True), TCG),
    "bios-amd64": (dataclasses.replace(THEIRS, firmware=Firmware.BIOS), TCG),
}


def lines(argv: list[str]) -> str:
    """One option and its value a line, so that a difference reads well."""
    return "".join(("\n" if word.startswith("-") else " ") + word for word in argv).lstrip("\n") + "\n"


@pytest.mark.parametrize("name", CASES)
def test_command_line(name: str) -> None:
    spec, options = CASES[name]
    text = lines(command(spec, HANDED, options))
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("TWOFOLD_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", CASES)
def test_every_guest_is_confined(name: str) -> None:
    argv = command(CASES[name][0], HANDED, CASES[name][1])
    text = " ".join(argv)
    assert argv[argv.index("-sandbox") + 1].startswith("on,obsolete=deny,elevateprivileges=deny,spawn=deny")
    assert {"-nodefaults", "-no-user-config"} < set(argv)
    outside = [argv[at + 1] for at, word in enumerate(argv) if word in ("-nic", "-netdev", "-net")]
    to_us = "stream,id=outside,server=off,addr.type=unix,addr.path=/run/n.sock,reconnect-ms=500"
    assert outside == [to_us if CASES[name][0].network else "none"], "the network process or nothing"
    assert not any(word in text for word in ("vnc", "tcp:", "unix:", "hostfwd", "netdev=user"))
    crossing = ("vdagent", "spice", "usb-redir", "usb-host", "9p", "virtiofs", "vhost", "clipboard")
    assert not any(word in text for word in crossing), "nothing that could carry a clipboard, a file or a device"
    machine = argv[argv.index("-machine") + 1]
    assert machine.startswith(machine_type(CASES[name][0]) + ",")
    assert "dump-guest-core=off" in machine


def test_a_value_cannot_become_another_option() -> None:
    assert words("x", name="a,b=c") == "x,name=a,,b=c"


def test_golden_files_are_all_used() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(CASES)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(UsageError, match="kernel"):
        command(OURS, dataclasses.replace(HANDED, kernel=None), TCG)
    with pytest.raises(UsageError, match="firmware"):
        command(THEIRS, dataclasses.replace(HANDED, firmware_vars=None), TCG)
    with pytest.raises(UsageError, match="network process"):
        command(CASES["network-direct-amd64"][0], dataclasses.replace(HANDED, network=None), TCG)
    with pytest.raises(UsageError, match="socket"):
        command(OURS, dataclasses.replace(HANDED, agent=None), TCG)


def test_cpu_models() -> None:
    assert cpu(OURS, Accelerator.TCG) == "max"
    assert cpu(OURS, Accelerator.KVM) == "host"
    assert cpu(dataclasses.replace(OURS, arch=Arch.ARM64), Accelerator.TCG) == "cortex-a76"
    assert cpu(dataclasses.replace(OURS, arch=Arch.ARM64), Accelerator.KVM) == "host"


@pytest.mark.parametrize("name", ["silent", "bios-amd64", "direct-arm64", "network-direct-amd64", "network-bios-amd64"])
def test_the_real_qemu_takes_every_word(name: str, tmp_path: Path) -> None:
    """All of it but the descriptors: QEMU is asked to build the board and stop before the first instruction."""
    if shutil.which(QEMU[CASES[name][0].arch]) is None:
        pytest.skip("no QEMU here")
    spec = dataclasses.replace(CASES[name][0], disks=(), agent_channel=False)
    ram = memory_file(spec)
    argv = command(spec, dataclasses.replace(HANDED, ram=ram), Options(Accelerator.TCG, stopped=True))
    drop = {"-kernel", "-initrd", "-append", "-chardev", "-mon"}
    kept = [word for at, word in enumerate(argv) if word not in drop and argv[at - 1] not in drop]
    end = [*kept, "-monitor", "stdio"]
    done = subprocess.run(end, input=b"quit\n", capture_output=True, timeout=30, check=False, pass_fds=[ram])
    os.close(ram)
    assert done.returncode == 0, done.stderr.decode()
