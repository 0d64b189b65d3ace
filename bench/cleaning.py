"""What the cleaner costs whoever keeps a copy elsewhere: the bytes that must be sent because it moved others."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from bench.fio import plain
from bench.ours import Vault
from bench.report import Row, row

# docs/vault-format.md, *The cleaner and packs*.
_START, _RECORD, _MAC, _BITMAP = 64, 2112, 32, 64
_PIECE = 24  # file, offset and length, 8 bytes each
_RESULT = 40  # the result's length and BLAKE3


def upload(folder: Path, rounds: int, size: int) -> list[Row]:
    """Each time a quarter of the disk is written over at random, kept and sent; then the cleaner works and the next generation is
    sent. Of a pack goes its recipe (head and pieces), of the log all that was written since: nothing else writes."""
    vault = Vault("cleaning")
    vault.create(folder / "cleaning", size)
    vault.start()
    shares: list[float] = []
    try:
        plain(vault, "randwrite", 4096, 32, size, size, ("--end_fsync=1",))
        kept = vault.commit()
        for _ in range(3 * rounds):  # not each time is there enough that is dead
            plain(vault, "randwrite", 4096, 32, size, size // 4, ("--end_fsync=1", "--norandommap"))
            before, kept = kept, vault.commit()
            there = {path.name for path in vault.files.iterdir()}
            vault.forget(before)
            moved = 0
            while pass_ := vault.clean():
                moved += pass_
            before, kept = kept, vault.commit()
            fresh = [path for path in vault.files.iterdir() if path.name not in there]
            log = sum(path.stat().st_size for path in fresh if path.name.startswith("s-"))
            recipes = sum(_recipe(path) for path in fresh if path.name.startswith("p-"))
            vault.forget(before)
            if moved:
                shares.append((log + recipes) / moved * 100)
                sys.stderr.write(f"cleaner: {moved >> 20} MiB moved, {recipes} bytes of recipes, {log} of log\n")
    finally:
        vault.stop()
        vault.remove()
    return [row("upload caused by the cleaner, of the bytes that it moved", "%", shares, {}, at_most=2)]


def _recipe(path: Path) -> int:
    """Bytes of the recipe of a pack: its head as it is, and at most one piece for each run of slots that it keeps."""
    with path.open("rb") as file:
        count: int = struct.unpack_from("<I", file.read(_START), 40)[0]
        records = file.read(_RECORD * count)
    pieces = 0
    for at in range(0, len(records), _RECORD):
        bitmap = int.from_bytes(records[at + _BITMAP : at + _RECORD], "little")
        pieces += (bitmap & ~(bitmap << 1)).bit_count()
    return _START + _RECORD * count + _MAC + pieces * _PIECE + _RESULT
