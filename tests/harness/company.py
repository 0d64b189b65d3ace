"""A whole company in small: a real server with a published image that needs no building, its people, and devices of theirs.

The image is a disk of 16 MiB whose boot sector counts up in memory and writes the count to the disk, 18 times a second, under
SeaBIOS: a machine that is up in a second under translation, has work to lose and disks to write.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from twofold.agent.client import Client, answering
from twofold.model.errors import TimedOutError, UnreachableError
from twofold.model.image import Arch, Firmware, ImageVersion, Part, SystemMode
from twofold.model.policy import Policy
from twofold.platform.dirs import Dirs, dirs
from twofold.server.client import Admin, saved_pin
from twofold.trust.publisher import publisher

TREE = Path(__file__).resolve().parents[2]
SIZE = 16 << 20
COUNT_AT = 4096  # where on the disk the count is

# start: xor ax,ax; ds=ss=ax; sp=7000; [7e00]=dl; dword [8000]=0
# again: inc dword [8000]; si=dap; ax=4300 (write); dl=[7e00]; int 13; sti; hlt; jmp again
# dap:   10 00, 1 sector, 0000:8000, LBA 8          (assembled with `as --32`, .code16)
_BOOT = bytes.fromhex(
    "31c08ed88ed0bc00708816007e66c70600800000000066ff060080be2c7cb800438a16007ecd13fbf4ebeb90"
    "10000100008000000800000000000000"
)
# The same with a power button: PM1_EN (port 602, q35) = 100 before the loop; after hlt, if PM1_STS (600) has bit 100, then
# PM1_CNT (604) = 2000: S5 (ACPI 6.5, 4.8.3). A button that is not enabled is not heard.
_BUTTON = bytes.fromhex(
    "31c08ed88ed0bc00708816007e66c706008000000000ba0206b80001ef66ff060080be427cb800438a16007ecd13fbf4"
    "ba0006eda9000174e4ba0406b80020efebdb10000100008000000800000000000000"
)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A build as `image publish` takes it."""

    folder: Path
    manifest: ImageVersion

    def path(self, part: str) -> Path:
        return self.folder / part


def tiny(
    folder: Path,
    name: str,
    *,
    has_agent: bool = False,
    direct: bool = False,
    button: bool = False,
    arch: Arch = Arch.AMD64,
) -> Tiny:
    """`has_agent`: the image claims to have our agent, which never answers. `direct`: it has a kernel and an initrd to boot from,
    which are noise: for all that happens before they run. `button`: it shuts down when its power button is pressed. `arch`: what
    it says that it is for."""
    disk, boot = bytearray(SIZE), _BUTTON if button else _BOOT
    disk[: len(boot)] = boot
    disk[510:512] = b"\x55\xaa"
    disk[1 << 20 : 3 << 20] = os.urandom(2 << 20)  # something to seal, send and damage
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "system").write_bytes(disk)
    contents = {"system": bytes(disk)}
    for extra in ("kernel", "initrd") if direct else ():
        contents[extra] = os.urandom(300_000)
        (folder / extra).write_bytes(contents[extra])
    parts = tuple(Part(each, len(data), hashlib.sha256(data).hexdigest()) for each, data in contents.items())
    firmware = Firmware.DIRECT if direct else Firmware.BIOS
    manifest = ImageVersion(name, 0, arch, firmware, SystemMode.PERSISTENT, parts, has_agent=has_agent)
    return Tiny(folder, manifest)


class Program(Protocol):
    """One that we started: what is used here of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...
    def terminate(self) -> None: ...


class Company:
    """A server in a process of its own. `invite` and `grant` are what its administrator does."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.host = folder, host
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self.password, home = secrets.token_urlsafe(18), self.folder / "server"
        words = [sys.executable, "-m", "twofold.server", "--home", str(home)]
        env = dict(os.environ) | {"PYTHONPATH": str(TREE / "src"), "TWOFOLD_PASSWORD": self.password}
        subprocess.run(
            [*words, "init", "--company", "Acme", "--name", self.host],
            env=env,
            check=True,
            capture_output=True,
            timeout=60,
        )
        self.port = _free_port()
        self.home, self._env = home, env
        self.mend()
        self._undo.callback(self.cut)
        self.admin = Admin(f"https://{self.host}:{self.port}", saved_pin(home))
        self.admin.wait_ready(30)
        self.admin.login("admin", self.password)
        self._undo.callback(self.admin.close)
        self.publisher = publisher(self.folder / "publisher")
        self.admin.add_publisher(self.publisher)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _started(self, log: Path) -> Program:
        words = [sys.executable, "-m", "twofold.server", "--home", str(self.home), "run"]
        with log.open("ab") as told:
            return subprocess.Popen(
                [*words, "--host", self.host, "--port", str(self.port)], env=self._env, stdout=told, stderr=told
            )

    def cut(self) -> None:
        """The server is gone, for whoever asks."""
        end(self.process)

    def kill(self) -> None:
        """As `cut`, at once and in the middle of whatever it does."""
        for pid in _family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def mend(self) -> None:
        """It comes back, at the same address."""
        self.process = self._started(self.folder / "server.log")
        deadline = time.monotonic() + 30
        while hasattr(self, "admin"):  # it knows the server already, so that only a question shows that it is there
            try:
                self.admin.list_devices()
                return
            except (UnreachableError, TimedOutError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The server takes connections and answers nothing, until the end of the block."""
        family = _family(self.process.pid)
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)

    def publish(self, name: str, **kind: Any) -> None:
        """`kind` as `tiny` takes it."""
        self.admin.publish_image(tiny(self.folder / name, name, **kind), self.publisher)

    def user(self, name: str) -> str:
        self.admin.create_user(name, secrets.token_urlsafe(18))
        return name

    def grant(self, user: str, image: str, workspace: str, colour: str, policy: Policy = Policy()) -> int:
        return self.admin.add_grant(user, image, workspace, workspace.title(), colour, policy)


class Device:
    """A home folder with an agent of its own, in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: Program | None = None

    @property
    def dirs(self) -> Dirs:
        before = os.environ.get("TWOFOLD_HOME")
        os.environ["TWOFOLD_HOME"] = str(self.home)
        try:
            return dirs()
        finally:
            if before is None:
                del os.environ["TWOFOLD_HOME"]
            else:
                os.environ["TWOFOLD_HOME"] = before

    def start(self, **environment: str) -> Client:
        """Start the agent and return a client of it."""
        env = dict(os.environ) | {"PYTHONPATH": str(TREE / "src"), "TWOFOLD_HOME": str(self.home)} | environment
        self.process = self._started(env)
        return self.client()

    def _started(self, env: dict[str, str]) -> Program:
        return subprocess.Popen([sys.executable, "-m", "twofold.agent"], env=env)

    def client(self) -> Client:
        deadline = time.monotonic() + 30
        while True:
            try:
                return answering(self.dirs.agent_socket)
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def quit(self) -> None:
        """End the agent as it wants to be ended."""
        assert self.process is not None
        with self.client() as client:
            client.call("quit")
        self.process.wait(20)

    def kill(self) -> None:
        """-9, as the kernel or a person might."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the agent, and every machine and vault it left."""
        try:
            with self.client() if self.process and self.process.poll() is None else self.start() as client:
                for each in client.call("list")["workspaces"]:
                    if each["pid"]:
                        client.finish("off", workspace=each["workspace"], limit=60)
                client.call("quit")
        finally:
            if self.process is not None:
                end(self.process)


def end(process: Program, seconds: float = 15) -> None:
    """End one process that we started: asked first, then killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
