"""Python's face of the vault: the sealed store that holds everything of a workspace that is ever written.

`Vault` and `OpenVault` are the seam. Nothing above it knows what fills it: today `twofold.vault.qcow`, an encrypted
qcow2 served by qemu-storage-daemon; later the log-structured store in `crates/vault`.
"""

from twofold.vault.seam import DeviceSpec, OpenVault, Vault

__all__ = ["DeviceSpec", "OpenVault", "Vault"]
