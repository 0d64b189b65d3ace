"""A vault of its own for a test: the device's key, the wrapped keys and the anchor lie beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from twofold.model.progress import silent
from twofold.vault.seam import DeviceSpec, Keys
from twofold.vault.store import SealedVault, _Open


class Kept:
    """Below `folder`, which holds nothing else of this name. `keys` are those of the workspace `work`."""

    def __init__(self, folder: Path) -> None:
        self.where = folder / "work" / "vault"
        self.vaults = SealedVault(folder / "device", folder / "anchors")
        self._wrapped = folder / "key.wrapped"

    def make(self, devices: Sequence[DeviceSpec], contents: Mapping[str, BinaryIO]) -> None:
        keys = self.vaults.new_keys("work")
        self._wrapped.write_bytes(keys.wrapped)
        with self.vaults.creating(self.where, keys, devices) as filling:
            for device, source in contents.items():
                filling.fill(device, source, silent)

    @property
    def keys(self) -> Keys:
        return Keys("work", self._wrapped.read_bytes())

    def open(self, runtime: Path) -> _Open:
        vault = self.vaults.open(self.where, self.keys, runtime)
        assert isinstance(vault, _Open)
        return vault
