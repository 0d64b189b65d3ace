"""UEFI firmware for guests that are not ours, handed to QEMU as descriptors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from twofold.model.errors import MissingError
from twofold.model.image import Arch, Firmware
from twofold.model.machine import Spec
from twofold.platform import memfd

# Code and its empty variable store, as Debian's packages ovmf and qemu-efi-aarch64 lay them out.
_PLACES = {
    Arch.AMD64: (("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),),
    Arch.ARM64: (("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),),
}


def descriptors(spec: Spec, parts: Mapping[str, int], owner: contextlib.ExitStack) -> tuple[int | None, int | None]:
    """Descriptors of the firmware's code (read-only) and variables, closed by `owner`; (None, None) where there is no UEFI.

    Variables are those handed as the part `uefi-vars`, else a fresh copy in memory: settings then last until power off.

    Raises:
        MissingError: no firmware is installed.
    """
    if spec.firmware is not Firmware.UEFI:
        return None, None
    for code_path, vars_path in _PLACES[spec.arch]:
        if Path(code_path).exists() and Path(vars_path).exists():
            code = os.open(code_path, os.O_RDONLY | os.O_CLOEXEC)
            owner.callback(os.close, code)
            variables = parts.get("uefi-vars")
            if variables is None:
                variables = memfd.create("twofold-uefi-vars")
                owner.callback(os.close, variables)
                os.write(variables, Path(vars_path).read_bytes())
            return code, variables
    raise MissingError(
        "UEFI firmware for virtual machines is not installed.",
        safe="Nothing was started.",
        next="Install it (Debian: ovmf and seabios).",
    )
