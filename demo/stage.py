"""What both demos set up: image, server, people, device, workspace. Everything started here is ended here, newest first."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from tests.harness.xserver import end
from twofold.agent.client import Client
from twofold.image.build import Built, build
from twofold.image.publish import Published
from twofold.model.errors import UnreachableError
from twofold.model.image import Arch
from twofold.model.policy import Policy
from twofold.model.progress import Progress
from twofold.platform.dirs import dirs, private
from twofold.platform.run import spawn
from twofold.server.client import Admin, saved_pin
from twofold.trust.publisher import publisher

TREE = Path(__file__).resolve().parents[1]
PERSON, ADMINISTRATOR = "alex", "admin"
WORKSPACE, TITLE, COLOUR = "work", "Acme", "blue"
_SESSION = (
    "XDG_RUNTIME_DIR",
    "DISPLAY",
    "XAUTHORITY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_SESSION_TYPE",
    "WAYLAND_DISPLAY",
)

_Result = TypeVar("_Result")


class Stage:
    """One home folder with a server and a device in it. `times` collects seconds by step."""

    def __init__(self, home: Path, console: Console) -> None:
        self.home, self.console = private(home), console
        self.times: dict[str, Any] = {}
        self._undo = ExitStack()
        # The device's folders lie in the demo's home; the agent, the command line and this process agree on them by this.
        os.environ["TWOFOLD_HOME"] = str(home / "device")
        self.dirs = dirs()
        self.environment = {name: os.environ[name] for name in ("TWOFOLD_HOME", *_SESSION) if name in os.environ}
        self.environment["PYTHONPATH"] = f"{TREE / 'src'}:{TREE}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def timed(self, step: str, said: str, work: Callable[[Progress], _Result]) -> _Result:
        """Do `work` with a progress bar, and note its seconds as `step`."""
        began = time.monotonic()
        columns = (
            TextColumn("  {task.description:<52}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[figure]:>16}"),
        )
        with Bar(*columns, TimeElapsedColumn(), console=self.console, transient=True) as bar:
            task = bar.add_task(said, total=None, figure="")

            def progress(step: str, done: int, total: int) -> None:
                figure = f"{done / 1e6:,.0f} / {total / 1e6:,.0f} MB" if total > 1 << 20 else ""
                bar.update(task, description=f"{said}: {step}"[:52], completed=done, total=total or None, figure=figure)

            result = work(progress)
        self.times[step] = round(time.monotonic() - began, 3)
        self.say(said, self.times[step])
        return result

    def say(self, said: str, seconds: float | None = None) -> None:
        self.console.print(f"  [green]✓[/] {said:<52}" + (f"{seconds:8.2f} s" if seconds is not None else ""))

    def ready(self) -> tuple[Built, Admin, Client]:
        """Everything up to a workspace that is checked out and can be started."""
        built = self.image()
        admin = self.server()
        self.publish(admin, built)
        client = self.agent()
        self.enrol(admin, client)
        self.checkout(client)
        return built, admin, client

    def image(self, arch: Arch = Arch.AMD64) -> Built:
        cache = Path(os.environ.get("TWOFOLD_BUILDS") or self.dirs.cache)
        built = self.timed(
            "image_build", "Business image", lambda bar: build(TREE / "recipes" / "business", arch, cache, bar)
        )
        # Where the build cache had it, the figure is what the real build took, and the next one says so.
        self.times["image_was_cached"] = built.seconds > 2 * self.times["image_build"]
        self.times["image_build"] = built.seconds
        return built

    def server(self, host: str = "127.0.0.1", *names: str) -> Admin:
        """Make the server's home at the first run, start it, sign in. The password is made here and kept in the home folder.
        `names` are those by which devices may know it too."""
        home, secret = self.home / "server", self.home / "admin-password"
        words = [sys.executable, "-m", "twofold.server", "--home", str(home)]
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_text(secrets.token_urlsafe(18))
            known = [word for name in (host, *names) for word in ("--name", name)]
            made = self.start(
                [*words, "init", "--company", TITLE, "--admin", ADMINISTRATOR, *known],
                {"TWOFOLD_PASSWORD": secret.read_text()},
            )
            if made.wait(60):
                raise SystemExit(f"The server's home could not be made; see {self.home / 'server.log'}")
        port_file = self.home / "server-port"
        port = int(port_file.read_text()) if port_file.exists() else _free_port(host)
        port_file.write_text(str(port))
        self.start([*words, "run", "--host", host, "--port", str(port)])
        admin = Admin(f"https://{host}:{port}", saved_pin(home))
        admin.wait_ready(20)
        admin.login(ADMINISTRATOR, secret.read_text())
        self._undo.callback(admin.close)
        return admin

    def publish(self, admin: Admin, built: Built, policy: Policy = Policy()) -> None:
        maker = publisher(self.home / "publisher")
        admin.add_publisher(maker)

        def work(bar: Progress) -> Published:
            return admin.publish_image(built, maker, bar, first_boot=built.first_boot)

        self.timed("publish", "Published: cut, sealed, signed", work)
        if not any(user["name"] == PERSON for user in admin.list_users()):
            admin.create_user(PERSON, secrets.token_urlsafe(18))
        if not any(grant["workspace"] == WORKSPACE for grant in admin.list_grants()):
            admin.add_grant(PERSON, built.manifest.image, WORKSPACE, TITLE, COLOUR, policy)

    def agent(self, starts: Callable[[], object] | None = None) -> Client:
        """The device's agent, started (by `starts`, where it is not an ordinary child) where none runs. At the end what runs is
        suspended and the agent quits."""
        try:
            client = self.client()
        except UnreachableError:
            if starts is not None:
                starts()
            else:
                self.start([sys.executable, "-m", "twofold.agent", "--foreground"])
            client = _until(self.client, 20)
        self._undo.callback(self.quit)
        self._undo.callback(client.close)
        return client

    def client(self) -> Client:
        """One more connection to the device's agent. Raises: UnreachableError: none listens."""
        return Client(self.dirs.agent_socket)

    def quit(self) -> None:
        try:
            with self.client() as client:
                client.call("quit", suspend=True, deadline=120)
        except UnreachableError:
            pass  # it has ended by itself

    def enrol(self, admin: Admin, client: Client, name: str = "Alex's laptop", by: Callable[[str], str] = str) -> None:
        """`by` turns an invitation's address into the one by which this device reaches the server."""
        try:
            client.call("available")
        except Exception:  # noqa: BLE001 - not enrolled, or enrolled with a server that is gone: either way, enrol
            client.call("enrol", url=by(admin.invite_device(PERSON)), code="", name=name)
            self.say(f"Enrolled as a device: {name}")

    def checkout(self, client: Client) -> None:
        if not any(space["workspace"] == WORKSPACE for space in client.call("list")["workspaces"]):
            self.job("checkout", "Checked out to this device", client, "checkout")

    def job(self, step: str, said: str, client: Client, verb: str, **args: Any) -> dict[str, Any]:
        """Have the agent do something with the workspace, with its progress and its seconds; returns its result."""

        def work(bar: Progress) -> dict[str, Any]:
            result: dict[str, Any] = {}
            for job in client.follow(client.call(verb, workspace=WORKSPACE, **args)):
                bar(job["step"], job["done"], job["total"])
                result = job["result"]
            return result

        return self.timed(step, said, work)

    def start(
        self,
        words: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        log: IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program that ends with the stage."""
        if log is None:
            log = self._undo.enter_context((self.home / f"{words[2].rpartition('.')[2]}.log").open("ab"))
        env = self.environment | dict(environment or {})
        process = spawn(words, env=env, cwd=TREE, pass_fds=pass_fds, stdout=log, stderr=log)
        self._undo.callback(end, process)
        return process

    def write_times(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "timings.json").write_text(json.dumps(self.times, indent=1) + "\n")


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _until(make: Callable[[], Client], seconds: float) -> Client:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return make()
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
