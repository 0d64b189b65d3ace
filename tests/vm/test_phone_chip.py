"""The emulated phone's TPM: what it keeps outlives a cut of the power, and is no other phone's, whatever storage that has."""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from phone.build import handset as build
from phone.handset import Handset, Parts, switched_on
from tests.harness.inside import chip

pytestmark = [
    pytest.mark.vm,
    pytest.mark.phone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("swtpm") is None, reason="no swtpm here"),
]
PCR = "cat /sys/class/tpm/tpm0/pcr-sha256/16"


@contextlib.contextmanager
def phone(folder: Path) -> Iterator[Handset]:
    folder.mkdir(exist_ok=True)
    with switched_on(Parts(build(), face="probe", inspect=True), folder) as handset:
        handset.look("until [ -e /dev/tpmrm0 ]; do sleep 0.2; done", 240)
        print(f"power-on to /dev/tpmrm0: {handset.age:.1f} s")
        text = base64.b64encode(Path(str(chip.__file__)).read_bytes()).decode()
        handset.look(f"echo {text} | base64 -d >/tmp/chip.py")
        yield handset


def use(handset: Handset, *words: str) -> str:
    return handset.look(f"python3 -IS /tmp/chip.py {' '.join(words)}").strip()


def test_what_the_chip_keeps_outlives_the_power_and_is_no_other_phones(tmp_path: Path) -> None:
    with phone(tmp_path / "mine") as mine:
        assert [use(mine, "count"), use(mine, "count")] == ["1", "2"]
        assert use(mine, "seal", "secret", "/home/sealed") == "sealed"
        fresh = mine.look(PCR)
        use(mine, "extend")
        assert mine.look(PCR) != fresh
        assert mine.look("find / -xdev -name 'tpm2-*.permall' 2>/dev/null; true") == "", (
            "the chip's own state is in here"
        )
        mine.look("sync")
    with phone(tmp_path / "mine") as mine:
        assert use(mine, "unseal", "/home/sealed") == "secret"
        assert use(mine, "count") == "3"
        assert mine.look(PCR) == fresh, "the chip was not switched on with the phone"
        mine.look(
            "systemctl kill --signal=KILL twofold-chip; while [ -e /dev/tpmrm0 ]; do sleep 0.1; done"
        )  # what carries it
        mine.look("until [ -e /dev/tpmrm0 ]; do sleep 0.2; done", 60)
        assert use(mine, "count") == "4"
        mine.look("sync")
    (tmp_path / "other").mkdir()
    shutil.copy(
        tmp_path / "mine/storage.raw", tmp_path / "other/storage.raw"
    )  # a thief's copy, in a phone of their own
    with phone(tmp_path / "other") as other:
        assert use(other, "unseal", "/home/sealed") == "refused 0x1df"  # TPM_RC_INTEGRITY
        assert use(other, "count") == "1"
