"""The VM's share of the machine: each kind of system, as folders."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from twofold.platform import cgroup

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "tools" / "setup-cgroup"


class Kernel:
    """A folder that stands for /sys/fs/cgroup. Real cgroup folders fill themselves; here the files are put in before."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.root.mkdir()
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "cgroup").write_text("0::/user/app/me\n")

    def group(self, name: str, **files: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file.replace("__", ".")).write_text(text)
        return folder

    def favour(self) -> cgroup.Share:
        return cgroup.favour(os.getpid(), "work", 1 << 30, self.root, self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_v2_delegated_group(kernel: Kernel) -> None:
    (kernel.root / "cgroup.controllers").write_text("cpu memory")
    kernel.group("user/app", cgroup__subtree_control="cpu memory")
    files = {"cpu__weight": "100", "memory__low": "0", "memory__swap__max": "max", "cgroup__procs": ""}
    vm = kernel.group("user/app/vm-work", **files)
    share = kernel.favour()
    assert share.kind == "v2"
    assert (vm / "cpu.weight").read_text() == "10000"
    assert (vm / "memory.low").read_text() == str(1 << 30)
    assert (vm / "memory.swap.max").read_text() == "0"
    assert (vm / "cgroup.procs").read_text() == str(os.getpid())
    assert share.swap_excluded
    assert "kept out of swap" in share.says


def test_v2_without_the_cpu_controller_is_no_share(kernel: Kernel) -> None:
    (kernel.root / "cgroup.controllers").write_text("memory")
    kernel.group("user/app", cgroup__subtree_control="memory")
    assert kernel.favour().kind != "v2"


def test_v1_group_made_by_root(kernel: Kernel) -> None:
    kernel.group("cpu/twofold", cpu__shares="102400")
    kernel.group("cpu/twofold/vm-work", cgroup__procs="")
    kernel.group("memory/twofold/vm-work", cgroup__procs="")
    share = kernel.favour()
    assert share.kind == "v1"
    assert "102400" in share.says
    assert share.memory_protected
    assert not share.swap_excluded  # v1 cannot promise it
    assert (kernel.root / "cpu/twofold/vm-work/cgroup.procs").read_text() == str(os.getpid())


def test_without_groups_the_autogroup(kernel: Kernel) -> None:
    (kernel.proc / str(os.getpid())).mkdir()
    assert kernel.favour().kind == "autogroup"


def test_with_nothing_it_says_so(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    share = kernel.favour()
    assert share.kind == "none"
    assert "tools/setup-cgroup" in share.says


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes control groups")
def test_the_set_up_step_gives_an_ordinary_user_a_share() -> None:
    if not os.access("/sys/fs/cgroup", os.W_OK):
        pytest.skip("control groups are read-only here")
    existed = (cgroup.ROOT / "cpu" / "twofold").exists() or (cgroup.ROOT / "twofold").exists()
    for _ in range(2):
        made = subprocess.run([SETUP, "nobody"], capture_output=True, check=False, timeout=20)
        if made.returncode == 3:
            pytest.skip(made.stderr.decode())
        assert made.returncode == 0, made.stderr.decode()
    try:
        if " v2 " in made.stdout.decode():
            pytest.skip("on v2 a process must already run inside; the systemd unit has Delegate=")
        code = (
            "import os,sys; os.setgid(65534); os.setuid(65534)\n"
            "from twofold.platform import cgroup\n"
            "print(cgroup.favour(os.getpid(), 'test', 1 << 20).kind, open('/proc/self/cgroup').read())"
        )
        env = {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(["python3", "-c", code], env=env, capture_output=True, check=True, timeout=20)
        assert done.stdout.startswith(b"v1 ")
        assert b"cpu:/twofold/vm-test" in done.stdout
        cgroup.release("test")
        assert not (cgroup.ROOT / "cpu" / "twofold" / "vm-test").exists()
    finally:
        if not existed:
            subprocess.run([SETUP, "--remove"], check=True, timeout=20)


def test_it_can_be_switched_off(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.group("cpu/twofold", cpu__shares="102400")
    group = kernel.group("cpu/twofold/vm-work", cgroup__procs="")
    monkeypatch.setenv(cgroup.SWITCH, "1")
    share = kernel.favour()
    assert share.kind == "none"
    assert cgroup.SWITCH in share.says
    assert not (group / "cgroup.procs").read_text()


def test_the_disks_process_shares_the_group_and_leaves_its_memory_rule(kernel: Kernel) -> None:
    kernel.group("cpu/twofold", cpu__shares="102400")
    kernel.group("cpu/twofold/vm-work", cgroup__procs="")
    kept = kernel.group("memory/twofold/vm-work", cgroup__procs="")
    kernel.favour()
    cgroup.favour(1, "work", root=kernel.root, proc=kernel.proc)
    assert (kernel.root / "cpu/twofold/vm-work/cgroup.procs").read_text() == "1"
    assert (kept / "memory.soft_limit_in_bytes").read_text() == str(1 << 30)


def test_a_machine_that_nobody_looks_at_has_no_more_than_any_program(kernel: Kernel) -> None:
    (kernel.root / "cgroup.controllers").write_text("cpu memory")
    kernel.group("user/app", cgroup__subtree_control="cpu memory")
    vm = kernel.group("user/app/vm-work", cpu__weight="100", cgroup__procs="")
    other = kernel.group("user/app/vm-other", cpu__weight="10000", cgroup__procs="")
    for front, weight in ((True, "10000"), (False, "100"), (True, "10000")):
        cgroup.prefer("work", front=front, root=kernel.root, proc=kernel.proc)
        assert (vm / "cpu.weight").read_text() == weight
    assert (other / "cpu.weight").read_text() == "10000"
    cgroup.prefer("none", front=False, root=kernel.root, proc=kernel.proc)
    assert not (vm.parent / "vm-none").exists()


@pytest.mark.parametrize(("above", "kept"), [("0", False), ("2147483648", True), ("max", True)])
def test_memory_is_kept_only_where_each_group_above_keeps_it(kernel: Kernel, above: str, kept: bool) -> None:
    (kernel.root / "cgroup.controllers").write_text("cpu memory")
    kernel.group("user", memory__low=above)
    kernel.group("user/app", cgroup__subtree_control="cpu memory", memory__low="max")
    kernel.group("user/app/vm-work", cpu__weight="100", memory__low="0", memory__swap__max="max", cgroup__procs="")
    share = kernel.favour()
    assert share.memory_protected is kept
    assert ("reclaimed last" in share.says) is kept
