"""Clients that others wrote must be content with our NBD server: libnbd's tools, QEMU's, fio's engine."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.nbd import Served, serving
from twofold.platform.run import run

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with serving(
        tmp_path, f"disk={64 * MIB},generation=1", f"sealed={8 * MIB},ro,min=512", f"bad={8 * MIB},bad=1048576+4096"
    ) as server:
        yield server


def extents(server: Served, export: str, context: str) -> list[tuple[int, int, int]]:
    """Offset, length and type of each, as nbdinfo tells."""
    said = json.loads(run(["nbdinfo", "--json", f"--map={context}", server.uri(export)]).stdout)
    return [(one["offset"], one["length"], one["type"]) for one in said]


def io(server: Served, export: str, *commands: str, check: bool = True) -> str:
    options = [word for command in commands for word in ("-c", command)]
    done = run(["qemu-io", "-f", "raw", *options, server.uri(export)], check=check)
    return (done.stdout + done.stderr).decode()


def test_nbdinfo_lists_every_export_with_what_it_can_do(server: Served) -> None:
    said = json.loads(run(["nbdinfo", "--json", "--list", f"nbd+unix://?socket={server.socket}"]).stdout)
    assert said["protocol"] == "newstyle-fixed" and said["structured"]
    bad, disk, sealed = said["exports"]
    assert [one["export-name"] for one in said["exports"]] == ["bad", "disk", "sealed"]
    assert disk["export-size"] == 64 * MIB and disk["description"] == "memory"
    assert disk["contexts"] == ["base:allocation", "twofold:changed-since:1"]
    can = ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_trim", "can_zero")
    assert all(disk[one] for one in can) and not disk["is_read_only"]
    assert sealed["is_read_only"] and not sealed["can_trim"] and not sealed["can_zero"]
    assert (bad["block_size_minimum"], sealed["block_size_minimum"]) == (1, 512)
    assert (disk["block_size_preferred"], disk["block_size_maximum"]) == (4096, 32 * MIB)


def test_nbdcopy_there_and_back(server: Served, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    with there.open("wb") as file:
        file.truncate(64 * MIB)
        for at in (0, 5 * MIB + 4096, 60 * MIB):
            file.seek(at)
            file.write(random.Random(at).randbytes(2 * MIB + 512))
    run(["nbdcopy", "--requests=64", "--flush", there, server.uri("disk")])
    run(["nbdcopy", "--requests=64", server.uri("disk"), back])
    assert there.read_bytes() == back.read_bytes()
    assert sum(length for _, length, kind in extents(server, "disk", "base:allocation") if kind == 0) < 7 * MIB


def test_several_connections_share_one_disk(tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(random.Random(7).randbytes(32 * MIB))
    with serving(tmp_path, f"disk={32 * MIB},multi") as server:
        assert json.loads(run(["nbdinfo", "--json", server.uri("disk")]).stdout)["exports"][0]["can_multi_conn"]
        run(["nbdcopy", "--connections=8", "--threads=2", "--flush", there, server.uri("disk")])
        run(["nbdcopy", "--connections=8", "--threads=2", server.uri("disk"), back])
    assert there.read_bytes() == back.read_bytes()


def test_qemu_io_writes_zeroes_discards_and_flushes(server: Served) -> None:
    said = io(
        server, "disk", "write -P 7 4k 64k", "write -f -P 8 8k 512", "write -z -u 16k 4k", "write -z 20k 4k",
        "discard 24k 4k", "flush", "read -P 7 4k 4k", "read -P 8 8k 512", "read -P 7 8704 7k", "read -P 0 16k 12k",
    )  # fmt: skip
    assert "fail" not in said
    holes = extents(server, "disk", "base:allocation")
    # `-z` alone keeps its space (NO_HOLE); with `-u` and a discard there is none.
    assert holes == [(0, 4096, 3), (4096, 12288, 0), (16384, 4096, 3), (20480, 4096, 0), (24576, 4096, 3),
                     (28672, 40960, 0), (69632, 64 * MIB - 69632, 3)]  # fmt: skip


def test_qemu_io_gets_an_error_for_the_damaged_block_alone(server: Served) -> None:
    assert "Input/output error" in io(server, "bad", "read 1M 4k", check=False)
    assert "Input/output error" in io(server, "bad", "read 0 2M", check=False)
    assert "fail" not in io(server, "bad", "read 0 1M", "read 1028k 1M")
    assert "Permission denied" in io(server, "sealed", "write 0 512", check=False)


def test_nbdinfo_shows_what_changed_since_a_generation(server: Served) -> None:
    io(server, "disk", "write 0 64k")
    server.say("generation disk")
    io(server, "disk", "write 128k 64k")
    assert [one for one in extents(server, "disk", "twofold:changed-since:2") if one[2]] == [(131072, 65536, 1)]
    assert not [one for one in extents(server, "disk", "twofold:changed-since:2") if one[2] and one[0] < 131072]


def test_a_resize_is_seen_by_the_next_client(server: Served) -> None:
    assert run(["nbdinfo", "--size", server.uri("disk")]).stdout == b"67108864\n"
    server.say(f"resize disk {MIB}")
    assert run(["nbdinfo", "--size", server.uri("disk")]).stdout == b"1048576\n"


def test_qemu_img_converts_compares_and_maps(server: Served, tmp_path: Path) -> None:
    disk, uri = tmp_path / "disk.qcow2", server.uri("disk")
    run(["qemu-img", "create", "-f", "qcow2", disk, "64M"])
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 3 1M 3M", "-c", "write -P 4 40M 1M", disk])
    run(["qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", disk, uri])
    run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, uri])
    said = json.loads(run(["qemu-img", "map", "--output=json", "-f", "raw", uri]).stdout)
    assert [(one["start"], one["length"]) for one in said if one["data"]] == [(MIB, 3 * MIB), (40 * MIB, MIB)]
    io(server, "disk", "write -P 5 41M 512")
    assert run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, uri], check=False).returncode == 1


@pytest.mark.parametrize("depth", [1, 32])
def test_fio_finds_all_it_wrote(server: Served, depth: int) -> None:
    run(
        [
            "fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri('disk')}", "--rw=randwrite", "--bs=4k", "--size=32m",
            f"--iodepth={depth}", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=512",
            "--fsync=37", "--end_fsync=1",
        ]
    )  # fmt: skip


def test_reads_that_must_wait_wait_together(tmp_path: Path) -> None:
    with serving(tmp_path, f"disk={16 * MIB},slow=20") as server:
        said = run(
            [
                "fio", "--name=slow", "--ioengine=nbd", f"--uri={server.uri('disk')}", "--rw=randread", "--bs=4k",
                "--iodepth=32", "--size=16m", "--number_ios=640", "--output-format=json",
            ]
        ).stdout  # fmt: skip
    runtime = json.loads(said[said.index(b"{") :])["jobs"][0]["read"]["runtime"]
    assert runtime < 640 * 20 / 8, f"640 reads of 20 ms at depth 32 took {runtime} ms"
