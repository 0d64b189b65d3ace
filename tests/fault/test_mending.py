"""`twofold disk repair` as a person types it: first what is lost and what is safe, in words, then exactly that."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fault.test_cli_whole import Typed
from tests.fault.test_moving import AT, DATA, Vault, user
from tests.harness.company import Device
from twofold.agent.client import Client

__all__ = ["user"]


def test_what_is_lost_is_shown_and_given_up_by_name(client: Client, work: str, device: Device, tmp_path: Path) -> None:
    typed, store = Typed(device.home), Vault(device, tmp_path / "r")
    store.write(DATA)
    vault = store.open()
    vault.commit("before the holiday")
    vault.close()
    assert "nothing to repair" in typed("disk", "repair", "work")
    folder = store.folder / "vault"
    largest = max(folder.glob("s-*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    said = typed("disk", "verify", "work", code=7)
    assert "4096 bytes lost" in said
    assert "twofold disk repair work" in said
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert typed("disk", "repair", "work", code=2) == ""
    for words in (
        "lost: disk system: 4096 bytes of 16.8 MB, which become zeroes:", f"({largest.name}", "lost: generation 1 of just now",
        "safe: disk system, all else", "Lost: what is named above, for good.",
        "Safe: everything that is not named.", "Say it with --yes.",
    ):  # fmt: skip
        assert words in typed.err, typed.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # Something else is lost by the time that somebody says yes.
    shown = client.finish("disk_survey", workspace=work)["result"]
    data[len(data) // 2 + (64 << 10)] ^= 1
    largest.write_bytes(data)
    operation = client.call("disk_repair", workspace=work, yes=True, plan=shown["digest"])
    found = client.call("job", operation=operation["operation"], wait=60.0)
    assert (found["state"], found["error"]["code"]) == ("failed", "conflict")
    done = json.loads(typed("disk", "repair", "work", "--yes", "-o", "json"))
    assert done["schema"] == "twofold-disk-repair-1"
    assert (done["done"]["zeroed"], done["done"]["generations"]) == (8192, [1])
    assert done["plan"]["devices"][0]["lost"]["bytes"] == 8192
    assert json.loads(typed("disk", "repair", "work", "--yes", "-o", "json"))["done"] is None
    assert "Everything is whole." in typed("disk", "verify", "work")
    found_data = store.read(len(DATA), AT)
    lost = {row["offset"] for row in done["plan"]["devices"][0]["lost"]["ranges"]}
    for at in range(0, len(DATA) // 4096 * 4096, 4096):
        expected = bytes(4096) if AT + at in lost else DATA[at : at + 4096]
        assert found_data[at : at + 4096] == expected


def test_a_lost_anchor_is_named_and_replaced_on_purpose(
    client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    typed, store = Typed(device.home), Vault(device, tmp_path / "r")
    store.write(DATA)
    (device.dirs.state / "anchors" / "work").unlink()
    typed("disk", "check", "work", code=7)
    assert "disk repair" in typed.err
    typed("disk", "repair", "work", "--yes")
    assert "its anchor is lost" in typed.err
    assert "all of it" in typed.err
    assert store.read(len(DATA)) == DATA
