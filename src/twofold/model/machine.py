"""What an engine is asked to run, what it can do, and when suspended memory fits."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError
from twofold.model.image import Arch, Firmware


class Accelerator(enum.StrEnum):
    """What executes guest code. `hvf` and `whpx` hold a place for other systems; neither is tried here."""

    KVM = "kvm"
    TCG = "tcg"
    HVF = "hvf"
    WHPX = "whpx"


@dataclass(frozen=True)
class Capabilities:
    """What an engine can honestly do on this machine."""

    engine: str
    accelerator: Accelerator
    accelerator_reason: str
    version: str
    suspend: bool
    display: bool
    sandbox: bool


@dataclass(frozen=True)
class Disk:
    """One disk the guest sees. `device` is the vault's device name, `target` what the guest calls it (vda ...)."""

    device: str
    target: str
    size: int
    read_only: bool


@dataclass(frozen=True)
class Spec:
    """Everything that decides a guest's hardware; two equal specs give the same command line (a golden test holds it)."""

    workspace: str
    arch: Arch
    firmware: Firmware
    memory_mib: int
    cpus: int
    disks: tuple[Disk, ...]
    cmdline: str = ""
    agent_channel: bool = True
    sound: bool = True
    width: int = 1280
    height: int = 800
    network: bool = False

    def to_wire(self) -> dict[str, Any]:
        """What suspended memory names. A card is in it where there is one: memory from before there were any still fits."""
        wire = dataclasses.asdict(self)
        return wire if self.network else {name: value for name, value in wire.items() if name != "network"}


@dataclass(frozen=True)
class MemoryIdentity:
    """What suspended memory belongs to, field by field; it is offered only where all are equal (design: The vault)."""

    workspace: str
    disk_head: str
    image: str
    image_version: int
    accelerator: Accelerator
    engine_version: str
    machine_type: str
    cpu_model: str
    spec: str  # hex SHA-256 of the canonical spec

    def to_wire(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_wire(cls, untrusted_identity: object) -> MemoryIdentity:
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(untrusted_identity, dict) or untrusted_identity.keys() != names:
            raise BadInputError(
                "The suspended memory does not say what it belongs to.",
                safe="The disks are safe.",
                next="Boot instead.",
            )
        text = {name: untrusted_identity[name] for name in names - {"image_version"}}
        if (
            not all(type(value) is str for value in text.values())
            or type(untrusted_identity["image_version"]) is not int
        ):
            raise BadInputError(
                "The suspended memory's identity is malformed.", safe="The disks are safe.", next="Boot instead."
            )
        if text["accelerator"] not in set(Accelerator):
            raise BadInputError(
                "The suspended memory names an unknown accelerator.", safe="The disks are safe.", next="Boot instead."
            )
        return cls(
            **{
                **text,
                "accelerator": Accelerator(text["accelerator"]),
                "image_version": untrusted_identity["image_version"],
            }
        )


_READABLE = {
    "workspace": "another workspace",
    "disk_head": "another state of the disk",
    "image": "another image",
    "image_version": "another version of the image",
    "accelerator": "another accelerator",
    "engine_version": "another QEMU version",
    "machine_type": "another machine type",
    "cpu_model": "another CPU model",
    "spec": "other hardware settings",
}


def misfits(saved: MemoryIdentity, now: MemoryIdentity) -> list[str]:
    """Say in words why suspended memory does not fit; an empty list means that it does."""
    return [
        f"{words} ({getattr(saved, name)!s:.40} then, {getattr(now, name)!s:.40} now)"
        for name, words in _READABLE.items()
        if getattr(saved, name) != getattr(now, name)
    ]
