"""A real S3 server (docs/decisions/0009-s3-server.md) on a folder of its own, on the loopback, ended with the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from twofold.platform.run import spawn

_KEYS = {"AWS_ACCESS_KEY_ID": "twofold-tests", "AWS_SECRET_ACCESS_KEY": "not a secret of anybody"}


def program() -> Path:
    builds = Path(os.environ.get("TWOFOLD_BUILDS") or Path.home() / ".cache/twofold")
    found = sorted((builds / "s3").glob("versitygw-v*"))
    assert found, "the S3 server is not built: tools/setup-s3"
    return found[-1]


class Buckets:
    """`url(name)` makes a bucket and says where it is, as `twofold.server.objects.opened` takes it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.endpoint = folder, f"http://127.0.0.1:{port}"

    def url(self, name: str) -> str:
        (self.folder / name).mkdir()  # to this server a folder is a bucket
        return f"s3://{name}/some/prefix?endpoint={self.endpoint}"


@contextlib.contextmanager
def s3() -> Iterator[Buckets]:
    """While it runs, its keys stand in this process's environment, where the server under test looks for them."""
    folder = Path(tempfile.mkdtemp(prefix="tf-s3-"))
    buckets, facts = folder / "buckets", folder / "facts"
    buckets.mkdir()
    facts.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    names = {"ROOT_ACCESS_KEY": _KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": _KEYS["AWS_SECRET_ACCESS_KEY"]}
    argv: list[str | Path] = [program(), "--port", f"127.0.0.1:{port}", "--quiet", "posix", "--sidecar", facts, buckets]
    former = {name: os.environ.get(name) for name in _KEYS}
    with (folder / "log").open("wb") as log:
        process = spawn(argv, env=names, stdout=log, stderr=log)
    try:
        os.environ.update(_KEYS)
        deadline = time.monotonic() + 20
        while not _answers(port):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.05)
        yield Buckets(buckets, port)
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it wants a signature
    except OSError:
        return False
    return True
