"""From an image version and a workspace's settings to the machine that runs it, and to what its memory belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import os

from twofold.agent.store import Record
from twofold.engine.seam import Engine
from twofold.model.canonical import canonical
from twofold.model.errors import DamagedError
from twofold.model.image import Firmware, ImageVersion, SystemMode
from twofold.model.lease import Lease
from twofold.model.machine import Capabilities, Disk, MemoryIdentity, Spec
from twofold.vault.seam import DeviceSpec

SYSTEM, USER = "system", "user"
BOOT_PARTS = ("kernel", "initrd")
_BLOCK = 4096


def devices(image: ImageVersion) -> tuple[DeviceSpec, ...]:
    """The vault's devices for an image: its system disk and, where the image has one, the user's own beside it."""
    system = image.part("system")
    if system is None:
        raise DamagedError(
            f"The image {image.image} has no system disk.", next="Ask your administrator for another version."
        )
    found = [DeviceSpec(SYSTEM, _whole(system.size), base=image.mode is SystemMode.STATELESS)]
    template = image.part("user-template")
    user = max(image.user_disk_size, template.size if template else 0)
    if user:
        found.append(DeviceSpec(USER, _whole(user)))
    return tuple(found)


def settled(record: Record, image: ImageVersion) -> Record:
    """With what a machine gets on this device: fixed at check-out, since stored memory fits no other."""
    memory = 1024 if image.has_agent else 2048
    cpus = min(2, os.cpu_count() or 1)
    return dataclasses.replace(record, memory_mib=memory, cpus=cpus, version=image.version)


def spec(lease: Lease, image: ImageVersion, record: Record, *, sound: bool, network: bool) -> Spec:
    """What decides the guest's hardware: the image, the settings of the check-out, and the policy of the launch (`sound`,
    `network`)."""
    disks = tuple(
        Disk(device.name, f"vd{'abcdef'[place]}", device.size, read_only=device.base)
        for place, device in enumerate(devices(image))
    )
    return Spec(
        workspace=lease.workspace,
        arch=image.arch,
        firmware=image.firmware,
        memory_mib=record.memory_mib,
        cpus=record.cpus,
        disks=disks,
        cmdline=image.cmdline if image.firmware is Firmware.DIRECT else "",
        agent_channel=image.has_agent,
        sound=sound,
        network=network,
    )


def identity(spec: Spec, image: ImageVersion, engine: Engine, able: Capabilities, head: str) -> MemoryIdentity:
    """What memory suspended now would belong to."""
    return MemoryIdentity(
        workspace=spec.workspace,
        disk_head=head,
        image=image.image,
        image_version=image.version,
        accelerator=able.accelerator,
        engine_version=able.version,
        machine_type=engine.machine_type(spec),
        cpu_model=engine.cpu_model(spec),
        spec=hashlib.sha256(canonical(spec.to_wire())).hexdigest(),
    )


def _whole(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
