"""From a spec to QEMU's command line. Equal input gives an equal command line; golden files hold it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from twofold.engine.devices import (
    AgentChannel,
    Card,
    Device,
    DirectBoot,
    Flash,
    Handed,
    NbdDisk,
    Plain,
    Screen,
    Sound,
    words,
)
from twofold.model.errors import UsageError
from twofold.model.image import Arch, Firmware
from twofold.model.machine import Accelerator, Spec

QEMU = {Arch.AMD64: "qemu-system-x86_64", Arch.ARM64: "qemu-system-aarch64"}

# Versioned, so that suspended memory and a guest's view of its hardware survive an upgrade of QEMU.
MACHINE = {Arch.AMD64: "pc-q35-10.0", Arch.ARM64: "virt-10.0"}

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Options:
    """What this machine, not the guest, decides. `lock` keeps touched guest memory out of swap; `stopped` starts paused;
    `incoming` waits for suspended memory; `screen`: there is an RFB screen too, which listens nowhere."""

    accelerator: Accelerator
    lock: bool = False
    stopped: bool = False
    incoming: bool = False
    screen: bool = False


def machine_type(spec: Spec) -> str:
    return MACHINE[spec.arch]


def cpu(spec: Spec, accelerator: Accelerator) -> str:
    """QEMU's CPU model. Translated guests get everything QEMU can do, on Arm a processor without pointer authentication, whose
    translation costs a third of the speed; otherwise the processor that is there."""
    if accelerator is not Accelerator.TCG:
        return "host"
    return "max" if spec.arch is Arch.AMD64 else "cortex-a76"


def command(spec: Spec, handed: Handed, options: Options) -> list[str]:
    """QEMU's words for a guest, program included.

    Raises:
        UsageError: the spec asks for something this engine has no device for.
    """
    words_ = [QEMU[spec.arch], *_process(spec, options), *_board(spec, options, handed.ram)]
    for device in devices(spec, handed):
        words_ += device.argv()
    words_ += ["-chardev", words("socket", id="qmp", fd=handed.qmp, server=True, wait=False)]
    return [*words_, "-mon", words("chardev=qmp", mode="control")]


def devices(spec: Spec, handed: Handed) -> Iterator[Device]:
    """The guest's devices in their order on the bus, which suspended memory relies on."""
    ours = spec.firmware is Firmware.DIRECT
    if ours:
        if handed.kernel is None:
            raise UsageError("A direct boot needs a kernel.")
        yield DirectBoot(handed.kernel, handed.initrd, spec.cmdline)
    elif spec.firmware is Firmware.UEFI:
        if handed.firmware_code is None or handed.firmware_vars is None:
            raise UsageError("A UEFI boot needs firmware and its variables.")
        yield Flash(handed.firmware_code, handed.firmware_vars)
    yield Plain("virtio-rng-pci", "rng")
    yield from _screen_and_input(spec, ours=ours)
    if ours or spec.arch is Arch.ARM64:
        for disk in spec.disks:
            yield NbdDisk(disk.device, handed.disks[disk.device], disk.read_only)
    else:
        # A guest we did not make may lack virtio drivers (Windows): SATA is on every board of its kind.
        for number, disk in enumerate(spec.disks):
            yield NbdDisk(disk.device, handed.disks[disk.device], disk.read_only, "sata", number)
    if spec.agent_channel:
        if handed.agent is None:
            raise UsageError("The agent's channel needs a socket.")
        yield AgentChannel(handed.agent)
    if spec.sound:
        yield Sound("sound0")
    if spec.network:
        if handed.network is None:
            raise UsageError("A network card needs the network process's socket.")
        yield Card("virtio-net-pci" if ours or spec.arch is Arch.ARM64 else "e1000e", handed.network)


def _screen_and_input(spec: Spec, *, ours: bool) -> Iterator[Device]:
    if ours or spec.arch is Arch.ARM64:
        yield Screen("virtio-vga" if spec.arch is Arch.AMD64 else "virtio-gpu-pci", spec.width, spec.height)
        yield Plain("virtio-keyboard-pci", "keyboard")
        yield Plain("virtio-tablet-pci", "tablet")
        yield Plain("virtio-multitouch-pci", "touch")
    else:
        yield Screen("VGA", spec.width, spec.height)
        yield Plain("qemu-xhci", "usb")
        yield Plain("usb-kbd", "keyboard")
        yield Plain("usb-tablet", "tablet")


def _process(spec: Spec, options: Options) -> Iterator[str]:
    yield from ("-name", words(f"guest={spec.workspace}", debug_threads=True))
    yield from ("-nodefaults", "-no-user-config", "-sandbox", SANDBOX)
    yield from ("-display", words("dbus", p2p="yes", audiodev="sound0" if spec.sound else None))
    if options.screen:
        yield from ("-vnc", "none")
    if spec.sound:
        yield from ("-audiodev", words("dbus", id="sound0"))
    if not spec.network:
        yield from ("-nic", "none")
    if options.lock:
        yield from ("-overcommit", "mem-lock=on-fault")
    if options.stopped or options.incoming:
        yield "-S"
    if options.incoming:
        yield from ("-incoming", "defer")


def _board(spec: Spec, options: Options, ram: int) -> Iterator[str]:
    flash = {"pflash0": "code", "pflash1": "variables"} if spec.firmware is Firmware.UEFI else {}
    ours = spec.firmware is Firmware.DIRECT
    board: dict[str, str | bool] = {"memory_backend": "ram", "dump_guest_core": False}
    if spec.arch is Arch.AMD64:
        board |= {"vmport": False, "hpet": False, "usb": False}
        if ours:
            board |= {"sata": False, "smbus": False, "i8042": False}
    else:
        # A translated guest gets the controller that every kernel knows; an accelerated one what its processor has.
        board |= {"gic_version": "3" if options.accelerator is Accelerator.TCG else "host"}
    yield from ("-machine", words(machine_type(spec), **board, **flash))
    yield from (
        "-accel",
        words("tcg", thread="multi") if options.accelerator is Accelerator.TCG else options.accelerator,
    )
    yield from ("-cpu", cpu(spec, options.accelerator))
    yield from ("-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M")
    # A handed memory file: to suspend or resume, nothing copies it (docs/decisions/0011). Large pages need it aligned.
    file = f"/proc/self/fd/{ram}"
    yield from (
        "-object",
        words("memory-backend-file", id="ram", size=f"{spec.memory_mib}M", mem_path=file, share=True, align="2M"),
    )
    if spec.arch is Arch.AMD64:
        yield from ("-device", words("vmgenid", guid="auto"))
    yield from ("-rtc", "base=utc,clock=host,driftfix=slew" if spec.arch is Arch.AMD64 else "base=utc,clock=host")
