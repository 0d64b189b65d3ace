"""What this machine can honestly promise: who is below the VM, where the key lives, what was proved; and what intruders could do.

The sentences are the command `twofold assurance`. docs/threat-model.md has the reasons.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from twofold.model.policy import Policy
from twofold.platform import memory


class Tpm(StrEnum):
    """What answers at /dev/tpm0. `CARRIED`: a program of this system, by the kernel's proxy; whether it stands for a chip or a
    file nothing here can tell."""

    NONE = "this machine has no TPM"
    CHIP = "this machine's TPM is not used yet"
    CARRIED = "this machine's TPM, which a program of its own system stands for, is not used"


@dataclass(frozen=True)
class Facts:
    """`disk_encrypted`: whether the folder of the workspaces lies on an encrypted volume; None where it can't be seen.
    `swaps`: swap areas on a disk. `tracing`: programs of one user may look into each other's memory."""

    disk_encrypted: bool | None
    swaps: tuple[str, ...]
    tracing: bool
    tpm: Tpm


@dataclass(frozen=True)
class Promise:
    """`against` names who tries; `held` whether this machine holds it; `says` what that means, in whole sentences."""

    against: str
    held: bool
    says: str


@dataclass(frozen=True)
class Assurance:
    """`level` is the name of the three facts together."""

    level: str
    below: str
    key: str
    proved: str
    promises: tuple[Promise, ...]


def lacking(policy: Policy) -> tuple[str, ...]:
    """What of the policy's minimum this machine cannot give, in words; none where it may run here. Hosted mode gives none of the
    three, whatever the machine has: nothing measures its start yet, and no TPM keeps a key."""
    wanted = {
        "a hypervisor of our own below the workspace (here it is the host system)": policy.hypervisor,
        "a key that is kept in a TPM (here it is a file)": policy.tpm,
        "an attested start of this machine (here nothing is measured)": policy.attested,
    }
    return tuple(words for words, needed in wanted.items() if needed)


def facts(state: Path, proc: Path = Path("/proc"), system: Path = Path("/sys")) -> Facts:
    """Look at this machine; `state` is the folder of the workspaces. Changes nothing."""
    try:
        scope = int((proc / "sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        scope = 0  # without Yama the kernel's classic rule holds: one user's programs may trace each other
    return Facts(_encrypted(state, system), tuple(memory.swaps(proc)), scope == 0, tpm(system))


def tpm(system: Path = Path("/sys")) -> Tpm:
    """Look for a TPM. One that a program carries hangs on no bus (tpm_vtpm_proxy)."""
    device = system / "class/tpm/tpm0"
    if not device.exists():
        return Tpm.NONE
    return Tpm.CARRIED if "virtual" in device.resolve().parts else Tpm.CHIP


def assurance(found: Facts) -> Assurance:
    """Hosted mode's promises; the bare-metal engine and the TPM will make others."""
    return Assurance(
        level="hosted",
        below="The host system: whoever controls it controls the workspace.",
        key=f"In a file that this user can read; {found.tpm}.",
        proved="Nothing: neither this machine's start nor its software was measured or attested.",
        promises=tuple(_promises(found)),
    )


def _promises(found: Facts) -> Iterator[Promise]:
    yield _held(
        "another user of this machine",
        "Reaches no file, socket, screen or memory of a workspace: the kernel keeps them apart.",
    )
    yield _held(
        "somebody in the network",
        "Reads and changes nothing: only the server that was pinned at enrolment is believed.",
    )
    yield _held(
        "a web page; a program inside Work",
        "Finds no port, no network but what your company lists, no shared folder, no clipboard. "
        "A flaw in QEMU or the kernel could still let it out.",
    )
    yield _held("your company", "Sees nothing of your own side; it can lock or end Work, and nothing else.")
    thief = "a thief of this machine, switched off"
    if found.disk_encrypted:
        yield _held(thief, "Finds an encrypted disk. A machine that runs or sleeps is another matter.")
    else:
        seen = "As far as this system can see, its disk is not encrypted"
        yield _open(thief, f"{seen}: the device's key lies beside the sealed workspace, and opens it.")
    yield _open(
        "somebody who puts an older copy of the whole disk back",
        "It is accepted: how new a workspace must be is written on that same disk. (Of the workspace alone: refused.)",
    )
    look = ", read a running workspace's memory" if found.tracing else ""
    yield _open(
        "a program that runs as you",
        "Can copy the device's key and open the workspace elsewhere, see your screen and every key you type, Work's too"
        f" (X11){look}, and end or replace Twofold.",
    )
    yield _open(
        "a program that runs as root",
        "Can read a running workspace's memory, key and screen, change what runs in it, and make this command lie. "
        "Only a hypervisor of our own, below both sides, would hold.",
    )
    yield _open(
        "whoever copied the key while they could",
        "Keeps it: taking Work back from this device locks it and destroys our copy of the key, not theirs.",
    )
    if found.swaps:
        yield _open(
            "somebody who reads this disk later",
            f"Memory of a workspace may have been swapped out unsealed to {', '.join(found.swaps)}.",
        )


def _held(against: str, says: str) -> Promise:
    return Promise(against, held=True, says=says)


def _open(against: str, says: str) -> Promise:
    return Promise(against, held=False, says=says)


def _encrypted(folder: Path, system: Path) -> bool | None:
    """Whether a file system's device, or one that it stands on, is a dm-crypt volume (sysfs-block-dm)."""
    try:
        number = folder.stat().st_dev
        device = (system / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    except OSError:
        return None  # no block device of its own: an overlay, a network's or a memory's file system
    return _crypt(device)


def _crypt(device: Path) -> bool:
    try:
        if (device / "dm/uuid").read_text().startswith("CRYPT-"):
            return True
    except OSError:
        pass  # not a device-mapper volume
    below = list((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    return bool(below) and all(_crypt(each.resolve()) for each in below)
