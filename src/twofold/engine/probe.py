"""What really executes guest code here, found out by running a tiny 64-bit guest under a deadline.

A `/dev/kvm` that opens is no proof: there are machines where it opens, creates a VM, runs 16-bit code, and then emulates or
hangs on every 64-bit kernel. The guest (`payload.S`) is a firmware of a few hundred bytes that enters long mode with paging,
runs forty million instructions, takes a breakpoint, a page fault and timer interrupts, and reports through QEMU's
isa-debug-exit device. On Arm (`payload-arm64.S`) it does the like at EL1 and reports through the serial port.
"""

from __future__ import annotations

import base64
import enum
import json
import os
import platform
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twofold.engine.hardware import MACHINE, QEMU
from twofold.model.errors import MissingError
from twofold.model.image import Arch
from twofold.model.machine import Accelerator
from twofold.platform import memfd
from twofold.platform.limits import harden
from twofold.platform.run import find, spawn

# `as --64` and `ld -Ttext=0xffff0000 --oformat binary` of payload.S, without the zeros; a test assembles it anew.
PAYLOAD = zlib.decompress(
    base64.b64decode(
        "eNplUb9rFEEU/mbvktvCYy5NuELj5CCNYLgVm0CEOyTepDJF/oYpLYStBDldrrjCQ7BMIZZi4TbCnhGyxsRREC5CiisXkeVIOBUMiPk1vheDjQNv3v"
        "e9fe+bb2YP559dxLyRYrrhSZVeELKWmr0ZOOcDMEkFvWEv7e28wWNgAxAI0j6qwPHPF3aCeaEiQIj2gmLkM6ozqjBqMKoyWhEkQC1JRMp9kH63ZFtF"
        "IiAhhcj6X8ZSZWU1CchalrC6rA37bSCV18rEIOtkskwT7Sg7Iqt778lpFWfukpFwbqNO3aPv1JGMmWZMM6ZljygeEv1MVIpLy4JtXA1EkGrxwX0Mf+"
        "v19vSj2fwVoBeGsvOUX0DLO6mRuymB+5tapHphU3Y69GUp+PqpGR2L8J62xTmfLoYz3cU5vgyVON1aBR4s/oPhbZrwwuV1IDu10Q8acDRno5UCwRIQ"
        "T+UqVvlsXKQQFKcU1/Ob8fO8QbXGUjA+OjhsRieFu7/iK/tePGVei4lvB/snplsytuVVYfhNe29HFdNtTWrb4v+Id023pQdS7egb7CW0zM9tR1TQ0Z"
        "avB023TYcrPcB/yzna1gZ/85PzvPYSl6E8xs5D+w9BfLlR"
    )
)
# `as` and `objcopy -O binary -j .text` of payload-arm64.S.
ARM_PAYLOAD = zlib.decompress(
    base64.b64decode(
        "eNrtlz9Lw0AYh3+XxBI6RSw04tDQ4lJwEFQKHXrQakHEiATasejo6KCg0lME56wubS1K6ejm1PoVzp6rKf0EcbKDxktB8Csod/Dw3vuHe971QGFh"
        "aIsFME7Q41mD+mWDPuaAaS5gXEfvPWdgasj+pqR0uvxxb8AfwAw7UeTNydpD7+glnh0whGXA6zLGD5Hol3/Njr8iL8gwjjtbtM9Rp44tiKRV0kXm"
        "xpzFNwmsgujiigN6H5Y9qzXOUIeBcCx9gDNqJhASDV4DQ7kznTaTCC8JPARFQS6kw3y+xWRJNORujozxG86kKIIovcEILA1ItQn2iNPhWooWDoC1"
        "LPD0GUVpdgJb9kdNRxeRzL2au+XuVJyq61aS+Mlq++5uNQl5MnJOoVAoFIq/Rp4WxPY8/Dy1xXECfqC3XpVf+ZVf+ZVf+ZX/f/tN4Dr+xy6uM2jx"
        "ZWWVxOEbg2SXYQ=="
    )
)
_ARM_SAYS = {b"TWOFOLD GOOD\n": "GOOD", b"TWOFOLD WRONG\n": "WRONG"}
_ROM = 0x10000
_RESET = 0xFFF0
_GOOD = 0x2A << 1 | 1  # isa-debug-exit ends QEMU with twice the value plus one
_WRONG = 0x11 << 1 | 1

KVM_SECONDS = 2.0  # a sound KVM answers in 0.1 s
TCG_SECONDS = 2.5  # translating takes 0.1 s on an idle machine
_STARTS = 8  # a trial's guest runs for 2 to 3 times as long as QEMU takes to start and say its version
_LONGEST = 20.0


class Verdict(enum.StrEnum):
    GOOD = "works"
    WRONG = "computed something else"
    HUNG = "hung"
    FAILED = "did not start"


@dataclass(frozen=True)
class Answer:
    """The accelerator to use, why in one line, and how long finding out took (seconds; 0 where it was remembered)."""

    accelerator: Accelerator
    reason: str
    seconds: float


def probe(arch: Arch, cache: Path, kvm: Path = Path("/dev/kvm")) -> Answer:
    """Find out what works for guests of `arch`; remembered in the folder `cache` until the next boot, QEMU or /dev/kvm.

    Raises:
        MissingError: QEMU is not installed, or not even translating works.
    """
    program = find(QEMU[arch])
    key = _key(program, arch, kvm)
    memory = cache / f"accelerator-{arch}.json"
    known = _recall(memory, key)
    if known is not None:
        return known
    began = time.monotonic()
    if arch is not native():
        answer = Answer(Accelerator.TCG, f"A guest for {arch} is translated on this machine; using TCG.", 0)
    else:
        answer = _decide(program, arch, kvm)
    answer = Answer(answer.accelerator, answer.reason, round(time.monotonic() - began, 3))
    _remember(memory, key, answer)
    return answer


def native() -> Arch | None:
    """The architecture that this machine's processor runs by itself."""
    return {"x86_64": Arch.AMD64, "aarch64": Arch.ARM64}.get(platform.machine())


def trial(program: str, accelerator: Accelerator, seconds: float, arch: Arch = Arch.AMD64) -> Verdict:
    """Run the tiny guest once. Always ends; QEMU is killed at the deadline."""
    if arch is Arch.ARM64:
        return _arm_trial(program, accelerator, seconds)
    rom = memfd.holding("twofold-probe", image())
    argv = [
        program, "-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-m", "16M",
        "-machine", MACHINE[Arch.AMD64], "-accel", str(accelerator), "-bios", f"/proc/self/fd/{rom}",
        "-device", "isa-debug-exit,iobase=0x501,iosize=2",
    ]  # fmt: skip
    try:
        status = _status(argv, (rom,), seconds)
    finally:
        os.close(rom)
    if status is None:
        return Verdict.HUNG
    return {_GOOD: Verdict.GOOD, _WRONG: Verdict.WRONG}.get(status, Verdict.FAILED)


def _arm_trial(program: str, accelerator: Accelerator, seconds: float) -> Verdict:
    rom, said = memfd.holding("twofold-probe", ARM_PAYLOAD), memfd.create("twofold-probe-said")
    gic, cpu = ("3", "cortex-a76") if accelerator is Accelerator.TCG else ("host", "host")
    argv = [
        program, "-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-m", "16M",
        "-machine", f"{MACHINE[Arch.ARM64]},gic-version={gic}", "-cpu", cpu, "-accel", str(accelerator),
        "-bios", f"/proc/self/fd/{rom}", "-serial", f"file:/proc/self/fd/{said}",
    ]  # fmt: skip
    try:
        status = _status(argv, (rom, said), seconds)
        if status is None:
            return Verdict.HUNG
        return Verdict[_ARM_SAYS.get(os.pread(said, 64, 0), "FAILED")] if status == 0 else Verdict.FAILED
    finally:
        os.close(rom)
        os.close(said)


def _status(argv: list[str], fds: tuple[int, ...], seconds: float) -> int | None:
    """How QEMU ended, or None where it had to be killed."""
    # The agent may be killed before the deadline: then it dies too (util-linux).
    if shutil.which("setpriv"):
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    process = spawn(argv, pass_fds=fds)
    harden(process.pid)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=5)


def image() -> bytes:
    """The firmware: the payload at the start of 64 KiB, and at the reset vector a jump to it."""
    back = (_ROM - (_RESET + 3)).to_bytes(2, "little")  # a near jump wraps round within the 64 KiB
    rom = bytearray(_ROM)
    rom[: len(PAYLOAD)] = PAYLOAD
    rom[_RESET : _RESET + 3] = b"\xe9" + back
    return bytes(rom)


def _decide(program: str, arch: Arch, kvm: Path) -> Answer:
    why, slow = _kvm_obstacle(kvm), _pace(program)
    if why is None:
        verdict = trial(program, Accelerator.KVM, max(KVM_SECONDS, slow), arch)
        if verdict is Verdict.GOOD:
            return Answer(Accelerator.KVM, "KVM ran a 64-bit guest; using KVM.", 0)
        why = {
            Verdict.HUNG: "KVM opens but hung on a 64-bit guest",
            Verdict.WRONG: "KVM opens but a 64-bit guest computed wrongly on it",
        }.get(verdict, "KVM opens but QEMU cannot start a guest on it")
    for candidate in _elsewhere():
        if trial(program, candidate, max(KVM_SECONDS, slow), arch) is Verdict.GOOD:
            return Answer(candidate, f"{candidate.upper()} ran a 64-bit guest; using it.", 0)
    verdict = trial(program, Accelerator.TCG, max(TCG_SECONDS, slow), arch)
    if verdict is Verdict.HUNG:  # a translator does not hang on known code: the machine is overloaded
        return Answer(Accelerator.TCG, f"{why}; using TCG (this machine is very busy just now).", 0)
    if verdict is not Verdict.GOOD:
        raise MissingError(
            f"QEMU ({program}) cannot run a 64-bit guest here: {why}, and translated (TCG) it {verdict}.",
            safe="Nothing was started.",
            next=f"Reinstall QEMU 10 or newer ({Path(program).name}).",
        )
    return Answer(Accelerator.TCG, f"{why}; using TCG.", 0)


def _pace(program: str) -> float:
    """Seconds that a trial may take here, by how long QEMU takes to say its version: a phone that is slow at everything has not
    hung (docs/decisions/0033)."""
    began = time.monotonic()
    _status([program, "--version"], (), _LONGEST / _STARTS)
    return min(_STARTS * (time.monotonic() - began), _LONGEST)


def _elsewhere() -> Iterator[Accelerator]:
    """Other systems' accelerators, tried the same way."""
    yield from {"Darwin": (Accelerator.HVF,), "Windows": (Accelerator.WHPX,)}.get(platform.system(), ())


def _kvm_obstacle(kvm: Path) -> str | None:
    if not kvm.exists():
        return "This machine has no KVM"
    if not os.access(kvm, os.R_OK | os.W_OK):
        return f"KVM is there but this user may not open {kvm} (group kvm)"
    return None


def _key(program: str, arch: Arch, kvm: Path) -> str:
    """Everything whose change asks for a new probe."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    binary = Path(program).stat()
    facts: list[object] = [2, arch, boot.read_text().strip() if boot.exists() else "", program, binary.st_mtime_ns]
    facts += [binary.st_size, os.geteuid()]
    try:
        device = kvm.stat()
        facts += [device.st_rdev, device.st_mode, device.st_uid, device.st_gid, os.access(kvm, os.R_OK | os.W_OK)]
    except OSError:
        facts += ["none"]
    return json.dumps(facts)


def _recall(memory: Path, key: str) -> Answer | None:
    try:
        untrusted_record = json.loads(memory.read_bytes())
        if untrusted_record["key"] != key:
            return None
        return Answer(Accelerator(untrusted_record["accelerator"]), str(untrusted_record["reason"])[:300], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path, key: str, answer: Answer) -> None:
    record = {"key": key, "accelerator": answer.accelerator, "reason": answer.reason}
    fresh = memory.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(record))
    fresh.replace(memory)
