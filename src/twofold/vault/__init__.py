"""Python's face of the vault: the sealed store that holds everything of a workspace that is ever written.

`Vault` and `OpenVault` are the seam; `twofold.vault.store` fills it with the vault process (`crates/vaultd`).
"""

from twofold.vault.seam import DeviceSpec, OpenVault, Vault

__all__ = ["DeviceSpec", "OpenVault", "Vault"]
