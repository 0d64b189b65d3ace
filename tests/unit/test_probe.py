"""The accelerator probe, with a QEMU that hangs, fails, lies or works, and with the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twofold.engine import probe
from twofold.model.errors import MissingError
from twofold.model.image import Arch
from twofold.model.machine import Accelerator
from twofold.platform.run import spawn

SOURCE = Path(probe.__file__).parents[2]

FAKE = """#!/bin/sh
case "$*" in
--version) {start} ;;
*"-accel kvm"*) echo kvm >>{log}; {kvm} ;;
*"-accel tcg"*) echo tcg >>{log}; {tcg} ;;
esac
"""


class Bench:
    """A machine with a fake QEMU and a fake /dev/kvm."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.kvm = folder, folder / "log", folder / "kvm"
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.kvm.touch()

    def qemu(self, kvm: str, tcg: str = "exit 85", start: str = "exit 0") -> None:
        program = self.folder / "qemu-system-x86_64"
        program.write_text(FAKE.format(log=self.log, kvm=kvm, tcg=tcg, start=start))
        program.chmod(0o755)

    def probe(self) -> probe.Answer:
        return probe.probe(Arch.AMD64, self.cache, self.kvm)

    def tried(self) -> list[str]:
        return self.log.read_text().split()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(probe, "native", lambda: Arch.AMD64)
    monkeypatch.setattr(probe, "KVM_SECONDS", 0.5)
    return Bench(tmp_path)


def test_kvm_that_works_is_used(bench: Bench) -> None:
    bench.qemu("exit 85")
    answer = bench.probe()
    assert answer.accelerator is Accelerator.KVM
    assert bench.tried() == ["kvm"]


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("exec sleep 60", "KVM opens but hung on a 64-bit guest; using TCG."),
        ("trap '' TERM; exec sleep 60", "KVM opens but hung on a 64-bit guest; using TCG."),
        ("exit 35", "KVM opens but a 64-bit guest computed wrongly on it; using TCG."),
        ("exit 1", "KVM opens but QEMU cannot start a guest on it; using TCG."),
        ("kill -SEGV $$", "KVM opens but QEMU cannot start a guest on it; using TCG."),
        ("exit 0", "KVM opens but QEMU cannot start a guest on it; using TCG."),
    ],
)
def test_kvm_that_does_not_work_is_left(bench: Bench, behaviour: str, words: str) -> None:
    bench.qemu(behaviour)
    began = time.monotonic()
    answer = bench.probe()
    assert answer.accelerator is Accelerator.TCG
    assert answer.reason == words
    assert time.monotonic() - began < 3


def test_a_machine_that_is_slow_at_everything_has_not_hung(bench: Bench) -> None:
    """An emulated phone's KVM works, and takes longer than a sound machine's deadline."""
    bench.qemu("sleep 0.9; exit 85", start="sleep 0.3")
    assert bench.probe().accelerator is Accelerator.KVM


def test_a_qemu_that_never_says_its_version_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_LONGEST", 0.8)
    bench.qemu("exec sleep 60", start="exec sleep 60")
    began = time.monotonic()
    assert bench.probe().accelerator is Accelerator.TCG
    assert time.monotonic() - began < 3


def test_without_kvm_it_is_not_tried(bench: Bench) -> None:
    bench.qemu("exit 85")
    bench.kvm.unlink()
    assert bench.probe().reason == "This machine has no KVM; using TCG."
    assert bench.tried() == ["tcg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_kvm_of_others_is_named(bench: Bench) -> None:
    bench.qemu("exit 85")
    bench.kvm.chmod(0)
    assert "may not open" in bench.probe().reason


def test_nothing_works(bench: Bench) -> None:
    bench.qemu("exit 1", "exit 1")
    with pytest.raises(MissingError, match="did not start"):
        bench.probe()


def test_a_busy_machine_still_gets_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TCG_SECONDS", 0.3)
    bench.qemu("exit 1", "exec sleep 60")
    assert bench.probe().accelerator is Accelerator.TCG


def test_the_answer_is_remembered_until_something_changes(bench: Bench) -> None:
    bench.qemu("exit 85")
    first = bench.probe()
    assert bench.probe() == probe.Answer(first.accelerator, first.reason, 0)
    assert bench.tried() == ["kvm"]
    bench.qemu("true another build; exit 1")
    assert bench.probe().accelerator is Accelerator.TCG
    bench.kvm.chmod(0o640)
    bench.probe()
    assert bench.tried() == ["kvm", "kvm", "tcg", "kvm", "tcg"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"key": 1}', "\x00", '{"key":"@","accelerator":"magic","reason":""}']
)
def test_a_spoilt_memory_is_forgotten(bench: Bench, text: str) -> None:
    bench.qemu("exit 85")
    (bench.cache / "accelerator-amd64.json").write_text(text)
    assert bench.probe().accelerator is Accelerator.KVM


def test_a_guest_of_another_architecture_is_translated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "native", lambda: Arch.ARM64)
    bench.qemu("exit 85")
    assert bench.probe().accelerator is Accelerator.TCG
    assert not bench.log.exists()


def test_the_real_machine_answers_in_time(tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no QEMU here")
    answer = probe.probe(Arch.AMD64, tmp_path)
    assert answer.seconds < 5
    assert answer.accelerator in (Accelerator.KVM, Accelerator.TCG)
    assert answer.reason.endswith((".", ")"))


def test_the_real_translator_runs_the_tiny_guest() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no QEMU here")
    assert probe.trial("qemu-system-x86_64", Accelerator.TCG, 20) is probe.Verdict.GOOD


def test_a_wrong_payload_is_not_good(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no QEMU here")
    spoilt = probe.PAYLOAD.replace((20_000_000).to_bytes(4, "little"), (19_999_999).to_bytes(4, "little"))
    assert spoilt != probe.PAYLOAD
    monkeypatch.setattr(probe, "PAYLOAD", spoilt)
    assert probe.trial("qemu-system-x86_64", Accelerator.TCG, 20) is probe.Verdict.WRONG


def test_the_payload_is_its_source(tmp_path: Path) -> None:
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("no assembler here")
    source = Path(probe.__file__).with_name("payload.S")
    built, linked = tmp_path / "payload.o", tmp_path / "payload.bin"
    try:
        subprocess.run(["as", "--64", "-o", built, source], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        pytest.skip("the assembler here is for another architecture")
    subprocess.run(
        ["ld", "-m", "elf_x86_64", "-Ttext=0xffff0000", "--oformat", "binary", "-o", linked, built], check=True
    )
    assert linked.read_bytes() == probe.image()


class ArmBench(Bench):
    """The same on Arm, where what was computed is a line on the serial port."""

    def qemu(self, kvm: str, tcg: str = "said=GOOD", start: str = "exit 0") -> None:
        fake = "#!/bin/sh\nfor w; do case $w in file:*) out=${{w#file:}} ;; esac; done\n" + FAKE.split("\n", 1)[1]
        program = self.folder / "qemu-system-aarch64"
        program.write_text(fake.format(log=self.log, kvm=kvm, tcg=tcg, start=start) + 'echo "TWOFOLD $said" >$out\n')
        program.chmod(0o755)

    def probe(self) -> probe.Answer:
        return probe.probe(Arch.ARM64, self.cache, self.kvm)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("said=GOOD", "KVM ran a 64-bit guest; using KVM."),
        ("said=WRONG", "KVM opens but a 64-bit guest computed wrongly on it; using TCG."),
        ("said=", "KVM opens but QEMU cannot start a guest on it; using TCG."),
        ("exit 0", "KVM opens but QEMU cannot start a guest on it; using TCG."),
        ("echo TWOFOLD GOOD >$out; exit 1", "KVM opens but QEMU cannot start a guest on it; using TCG."),
        ("echo TWOFOLD GOOD >$out; exec sleep 60", "KVM opens but hung on a 64-bit guest; using TCG."),
    ],
)
def test_on_arm_too_only_a_guest_that_ran_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, words: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(probe, "native", lambda: Arch.ARM64)
    monkeypatch.setattr(probe, "KVM_SECONDS", 0.5 if "sleep" in behaviour else 10)
    bench = ArmBench(tmp_path)
    bench.qemu(behaviour)
    assert bench.probe().reason == words
    assert bench.tried() == (["kvm"] if behaviour == "said=GOOD" else ["kvm", "tcg"])


def test_the_real_translator_runs_the_tiny_arm_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("qemu-system-aarch64") is None:
        pytest.skip("no QEMU for Arm here")
    words = ("qemu-system-aarch64", Accelerator.TCG, 20, Arch.ARM64)
    assert probe.trial(*words) is probe.Verdict.GOOD
    # Without the breakpoint one exception is missing.
    spoilt = probe.ARM_PAYLOAD.replace((0xD4200000).to_bytes(4, "little"), (0xD503201F).to_bytes(4, "little"))
    assert spoilt != probe.ARM_PAYLOAD
    monkeypatch.setattr(probe, "ARM_PAYLOAD", spoilt)
    assert probe.trial(*words) is probe.Verdict.WRONG


def test_the_arm_payload_is_its_source(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-as") is None:
        pytest.skip("no assembler for Arm here")
    source = Path(probe.__file__).with_name("payload-arm64.S")
    built, plain = tmp_path / "payload.o", tmp_path / "payload.bin"
    subprocess.run(["aarch64-linux-gnu-as", "-o", built, source], check=True, capture_output=True)
    subprocess.run(["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", built, plain], check=True)
    assert plain.read_bytes() == probe.ARM_PAYLOAD


def test_a_trial_dies_with_whoever_tries(bench: Bench) -> None:
    bench.qemu(f"echo $$ >{bench.folder}/pid; exec sleep 60")
    program = f"{str(bench.folder / 'qemu-system-x86_64')!r}, probe.Accelerator.KVM, 60"
    words = [sys.executable, "-c", f"from twofold.engine import probe; probe.trial({program})"]
    trying, note = spawn(words, env={"PYTHONPATH": str(SOURCE)}), bench.folder / "pid"
    until = time.monotonic() + 20
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < until, "no trial began"
        time.sleep(0.02)
    stat = Path(f"/proc/{note.read_text().strip()}/stat")
    trying.kill()
    trying.wait(10)
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "it went on"
        time.sleep(0.02)
