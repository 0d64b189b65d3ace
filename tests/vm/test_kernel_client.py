"""The Linux kernel's own NBD client, in a guest, on a vault: raw, and under a file system."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bench.ours import Vault
from tests.harness.image import business
from tests.harness.tiny import running
from twofold.platform.run import run

pytestmark = pytest.mark.vm

MIB = 1 << 20
SIZE = 192 * MIB


def test_the_kernels_client_writes_trims_and_finds_its_file_system_whole(tmp_path: Path) -> None:
    vault = Vault()
    vault.create(tmp_path / "v", SIZE)
    vault.start()
    try:
        said: dict[str, str] = {}
        with running(
            business(), tmp_path, "kernel_client",
            "-chardev", f"socket,id=nbd,path={vault.socket}",
            "-device", "virtserialport,bus=serial.0,nr=2,chardev=nbd",
            programs=["nbd-client", "mkfs.ext4", "e2fsck"],
        ) as guest:  # fmt: skip
            while "end" not in said:
                line = guest.next(60)
                assert line is not None, f"the guest fell silent after {said}"
                name, _, value = line.partition(" ")
                assert name != "failed", value
                said[name] = value
                if name == "raw":  # it is durable, and not only in the guest's memory
                    run(["nbdcopy", vault.uri, tmp_path / "raw"])
                    with (tmp_path / "raw").open("rb") as copy:
                        assert hashlib.sha256(copy.read(24 * MIB)).hexdigest() == value
                    assert hole(vault, 3 * MIB, 2 * MIB) and hole(vault, 9 * MIB, MIB)
        assert said["size"] == str(SIZE)
        assert (said["write_cache"], said["fua"]) == ("write back", "1")
        assert int(said["discard_max_bytes"]) > 0 and int(said["write_zeroes_max_bytes"]) > 0
        assert int(said["files"]) > SIZE // 2
        # Seen by others, and after a new opening.
        vault.stop()
        vault.start()
        run(["nbdcopy", vault.uri, tmp_path / "whole"])
        run(["e2fsck", "-fn", tmp_path / "whole"])
    finally:
        vault.stop()


def hole(vault: Vault, offset: int, length: int) -> bool:
    """Whether the server says that nothing is stored there."""
    said = json.loads(run(["nbdinfo", "--json", "--map=base:allocation", vault.uri]).stdout)
    return all(
        one["type"] & 1 for one in said if one["offset"] < offset + length and one["offset"] + one["length"] > offset
    )
