"""Where keys and plain data are not: files, logs, other processes' reach, the Python side's memory."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from tests.harness.vault import Kept
from twofold.agent.store import as_json
from twofold.vault import nbd
from twofold.vault.seam import DeviceSpec
from twofold.vault.store import _Open

TREE = Path(__file__).resolve().parents[2]
PLAIN = b"a word that nobody may find " * 147  # no multiple of a block


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    kept = Kept(tmp_path)
    kept.make([DeviceSpec("disk", 8 << 20)], {"disk": io.BytesIO(PLAIN)})
    (tmp_path / "run").mkdir(mode=0o700)
    return kept


@pytest.fixture
def vault(kept: Kept, tmp_path: Path) -> Iterator[_Open]:
    vault = kept.open(tmp_path / "run")
    yield vault
    vault.close()


def epoch_key(folder: Path, kept: Kept) -> bytes:
    """The plain key, unwrapped as docs/keys.md says, by nothing of ours. This test's process is the only one of Python that ever
    does it."""
    words = (folder / "device" / "wrapping.key").read_text().split()
    device = X25519PrivateKey.from_private_bytes(bytes.fromhex(words[1]))
    wrap = as_json(kept.keys.wrapped, "keys")["wraps"][0]
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    info = b"twofold-epoch-key-1\0" + (1).to_bytes(4, "little") + b"work"
    return suite.decrypt(bytes.fromhex(wrap["sealed"]), device, info=info)


def memory(pid: int) -> Iterator[bytes]:
    """What a process has in its writable memory (proc_pid_mem(5))."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as file:  # noqa: PTH123
        for line in maps:
            words = line.split()
            if "w" in words[1]:
                start, end = (int(each, 16) for each in words[0].split("-"))
                file.seek(start)
                yield file.read(end - start)


def test_plain_data_and_key_are_in_no_file(kept: Kept, vault: _Open, tmp_path: Path) -> None:
    key = epoch_key(tmp_path, kept)
    with vault.connect("disk") as stream:
        client = nbd.Client(stream, "disk")
        assert client.read(0, len(PLAIN)) == PLAIN
        client.write(1 << 20, PLAIN)
        client.flush()
    vault.close()
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert found
    for secret in (PLAIN[:28], key, key.hex().encode()):
        assert [path for path in found if secret in path.read_bytes()] == []


def test_the_process_cannot_be_looked_into(vault: _Open) -> None:
    pid = vault.pid
    assert Path(f"/proc/{pid}/cmdline").read_bytes().count(b"\0") == 1, "one word: its own name"
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
    assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
    if os.geteuid() != 0:  # root may look at everything
        for name in ("mem", "environ", "maps", "auxv"):
            with pytest.raises(PermissionError):
                Path(f"/proc/{pid}/{name}").read_bytes()
        with pytest.raises(PermissionError):
            list(Path(f"/proc/{pid}/fd").iterdir())
    assert vault.status()["locked"] in ("all", "keys", "none")


def test_a_crash_leaves_no_core(kept: Kept, tmp_path: Path) -> None:
    vault = kept.open(tmp_path / "run")
    pidfd = os.pidfd_open(vault.pid)
    signal.pidfd_send_signal(pidfd, signal.SIGABRT)
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    assert ended is not None
    assert ended.si_code == os.CLD_KILLED, "not CLD_DUMPED"
    vault.close()


WORKER = """
import sys
from pathlib import Path
from tests.harness.vault import Kept
folder = Path(sys.argv[1])
kept = Kept(folder)
vault = kept.open(folder / "run")
vault.connect("disk").close()
print(vault.pid, flush=True)
sys.stdin.readline()
vault.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def test_the_python_side_never_had_the_key(kept: Kept, tmp_path: Path) -> None:
    key = epoch_key(tmp_path, kept)
    words = [sys.executable, "-c", WORKER, str(tmp_path)]
    env = {"PYTHONPATH": os.pathsep.join([str(TREE / "src"), str(TREE), *sys.path])}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as worker:
        assert worker.stdin and worker.stdout
        pid = int(worker.stdout.readline())
        seen = list(memory(worker.pid))
        assert any(kept.keys.wrapped[:64] in part for part in seen), (
            "it has the wrapped key: we look at the right place"
        )
        assert not any(key in part for part in seen)
        if os.geteuid() == 0:
            assert any(key in part for part in memory(pid)), "only there"
        worker.stdin.write(b"\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == b"closed\n"
        end = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not Path(f"/proc/{pid}").exists(), "nothing is left to have it"
        worker.stdin.write(b"\n")
        worker.stdin.flush()
