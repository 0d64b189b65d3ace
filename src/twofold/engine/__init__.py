"""What runs a VM. `Engine` and `Machine` are the seam; `twofold.engine.hosted` fills it with QEMU."""

from twofold.engine.seam import Engine, Machine, Stats

__all__ = ["Engine", "Machine", "Stats"]
