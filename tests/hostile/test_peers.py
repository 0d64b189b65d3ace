"""Other users of this machine, and programs that talk nonsense, get nothing from the device; and nothing listens on a port."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.company import TREE, Company, Device, end
from tests.harness.xserver import window_manager, xserver
from twofold.agent.client import Client

pytestmark = pytest.mark.vm

_NOBODY = 65534

# Run as another user: try to connect to each path, and say what came of it. Standard library only, no imports of ours.
_INTRUDER = """
import socket, sys
for path in sys.argv[1:]:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(3)
    try:
        sock.connect(path)
        sock.sendall(b'{"id":1,"do":"list","args":{}}\\n{"execute":"qmp_capabilities"}\\n')
        print("got", len(sock.recv(4096)))
    except OSError as refused:
        print("refused", type(refused).__name__)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Client]]:
    """A device with a running workspace."""
    folder = tmp_path_factory.mktemp("hostile")
    with Company(folder) as company:
        company.publish("mute", has_agent=True)
        company.grant(company.user("alex"), "mute", "work", "blue")
        device = Device(folder / "device")
        try:
            with device.start() as client:
                client.call("enrol", url=company.admin.invite_device("alex"), name="laptop")
                client.finish("checkout", workspace="work")
                client.finish("start", workspace="work")
                yield device, client
        finally:
            device.close()


def sockets(device: Device) -> list[Path]:
    return [path for path in device.dirs.runtime.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]


def intrude(paths: list[Path]) -> list[str]:
    done = subprocess.run(
        ["setpriv", "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups", "--no-new-privs",
         "/usr/bin/python3", "-c", _INTRUDER, *map(str, paths)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split("\n")[:-1]


@pytest.mark.root
def test_another_user_reaches_no_socket(running: tuple[Device, Client]) -> None:
    device, _ = running
    paths = sockets(device)
    names = {path.name for path in paths}
    assert {"agent.sock", "qmp.sock", "agent-channel.sock"} <= names
    said = intrude(paths)
    assert len(said) == len(paths)
    assert all(line.startswith("refused") for line in said), list(zip(paths, said, strict=True))


@pytest.mark.root
def test_another_user_is_refused_by_its_credentials_even_where_the_paths_are_open(
    running: tuple[Device, Client],
) -> None:
    """As though somebody had opened the folders and the socket by mistake: the agent still looks at who connects."""
    device, client = running
    agent = device.dirs.agent_socket
    with contextlib.ExitStack() as undo:
        for path in [*agent.parents]:
            mode = path.stat().st_mode
            if path.stat().st_uid == os.geteuid() and not mode & 0o001:
                path.chmod(mode | 0o011)
                undo.callback(path.chmod, mode)
        agent.chmod(0o666)
        undo.callback(agent.chmod, 0o600)
        assert intrude([agent]) in (["got 0"], ["refused ConnectionResetError"], ["refused BrokenPipeError"])
    assert client.call("hello")["api"] == 1


@pytest.mark.root
def test_two_people_on_one_machine_do_not_reach_each_other(tmp_path: Path, running: tuple[Device, Client]) -> None:
    """A second person's agent, with the same code and the default places, serves that person alone."""
    device, _ = running
    home = tmp_path / "other"
    home.mkdir()
    os.chown(home, _NOBODY, _NOBODY)
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    code = (
        "import sys; from pathlib import Path; from twofold.agent.client import Client, connect\n"
        "with connect() as mine: print(mine.call('list')); mine.call('quit')\n"
        "try: Client(Path(sys.argv[1])); print('reached')\n"
        "except Exception as refused: print(type(refused).__name__)\n"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    if not os.access(source, os.R_OK):
        pytest.skip("the source is not readable")
    done = subprocess.run(
        ["setpriv", "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups", "--no-new-privs",
         sys.executable, "-c", code, str(device.dirs.agent_socket)],
        env={"TWOFOLD_HOME": str(home), "PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": source},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["{'workspaces': []}", "UnreachableError"], done.stderr


def test_every_file_is_for_its_user_alone(running: tuple[Device, Client]) -> None:
    device, _ = running
    for root in (device.dirs.state, device.dirs.cache, device.dirs.runtime):
        for path in [root, *root.rglob("*")]:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
                assert mode & 0o077 == 0, path
        assert root.stat().st_mode & 0o077 == 0


def processes(device: Device, client: Client) -> dict[str, int]:
    """The agent, QEMU and the vault's process."""
    assert device.process is not None
    found = {"agent": device.process.pid, "qemu": client.call("info", workspace="work")["pid"]}
    found["vault"] = json.loads((device.dirs.workspace_runtime("work") / "vault.json").read_text())["pid"]
    return found


@pytest.fixture
def switcher(running: tuple[Device, Client]) -> Iterator[int]:
    """The person's window over a desktop, with the machine's screen in it; its pid."""
    device, _ = running
    with xserver(800, 600) as server, window_manager(server):
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "twofold.switcher", "--socket", device.dirs.agent_socket, "--front",
             "--status-fd", str(writer)],
            env=dict(os.environ) | server.environment(PYTHONPATH=str(TREE / "src")), pass_fds=[writer],
        )  # fmt: skip
        os.close(writer)
        try:
            with os.fdopen(reader) as lines:
                assert any(json.loads(line).get("live") for line in lines)
                yield process.pid
        finally:
            end(process)


@pytest.mark.root  # the agent's descriptors are hidden even from its own user (platform.limits.harden_self)
def test_nothing_of_the_device_has_a_port(running: tuple[Device, Client], switcher: int) -> None:
    device, client = running
    client.call("available")  # the agent's own way to the server is outgoing only
    found = processes(device, client) | {"switcher": switcher}
    assert found.keys() == {"agent", "qemu", "vault", "switcher"}
    control = socket.create_server(("127.0.0.1", 0))  # what the test would see, were there one
    with control:
        assert os.fstat(control.fileno()).st_ino in listening()
        for name, pid in found.items():
            own = set()
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(entry.readlink())
                    if target.startswith("socket:["):
                        own.add(int(target[8:-1]))
            assert own, name  # the look itself worked
            assert not own & listening(), name


def listening() -> set[int]:
    """Inodes of TCP sockets that listen and of all UDP sockets (proc_net(5))."""
    found = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if kind.startswith("udp") or fields[3] == "0A":
                found.add(int(fields[9]))
    return found


def test_a_second_qmp_or_channel_client_gets_nothing(running: tuple[Device, Client]) -> None:
    """Even the same user's other programs find QEMU's sockets taken: the agent is their one client."""
    device, client = running
    folder = device.dirs.workspace_runtime("work")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        try:
            sock.connect(str(folder / "qmp.sock"))
            sock.sendall(b'{"execute":"qmp_capabilities"}\n')
            assert sock.recv(4096) == b""
        except (TimeoutError, OSError):
            pass
    assert client.call("info", workspace="work")["run"] == "running"


def status(device: Device, name: str) -> int:
    """A number that the kernel shows of the agent to everybody (proc_pid_status(5))."""
    assert device.process is not None
    lines = Path(f"/proc/{device.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def test_floods_slow_lines_and_descriptors_do_not_hold_up_the_agent(running: tuple[Device, Client]) -> None:
    device, client = running
    assert device.process is not None
    path = str(device.dirs.agent_socket)
    with contextlib.ExitStack() as stack:
        for number in range(200):  # more than are let in; each begins a line and never ends it
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(1)
            with contextlib.suppress(OSError):
                sock.connect(path)
                socket.send_fds(sock, [b'{"id":%d,' % number], [0] * 250)
        began = time.monotonic()
        assert client.call("hello")["api"] == 1
        assert time.monotonic() - began < 2
        assert status(device, "FDSize") <= 256  # slots for descriptors; what was sent would need thousands
    huge = socket.socket(socket.AF_UNIX)
    with huge:
        huge.connect(path)
        with contextlib.suppress(OSError):
            for _ in range(64):
                huge.sendall(b"x" * 65536)
    assert client.call("hello")["api"] == 1
    resident = status(device, "VmRSS")
    assert resident < 64 << 10, f"{resident} KiB"
