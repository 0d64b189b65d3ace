"""What a person types that nobody else may keep: in one place of memory, which is overwritten."""

from __future__ import annotations

from typing import Final

LIMIT: Final = 256  # characters, as vaultd takes them


class Secret:
    """Characters that were typed. The buffer never grows, so that no copy of it is left behind anywhere."""

    def __init__(self) -> None:
        self._bytes = bytearray(4 * LIMIT)
        self._ends: list[int] = []

    def __len__(self) -> int:
        """How many characters there are."""
        return len(self._ends)

    def type(self, text: str) -> None:
        for char in text:
            if char.isprintable() and len(self._ends) < LIMIT:
                begin, coded = self._ends[-1] if self._ends else 0, char.encode()
                self._bytes[begin : begin + len(coded)] = coded
                self._ends.append(begin + len(coded))

    def back(self) -> None:
        """Take the last character away."""
        if self._ends:
            end, begin = self._ends.pop(), self._ends[-1] if self._ends else 0
            self._bytes[begin:end] = bytes(end - begin)

    def same(self, other: Secret) -> bool:
        return self._bytes == other._bytes

    def wipe(self) -> None:
        self._bytes[:] = bytes(len(self._bytes))
        self._ends.clear()

    def take(self) -> str:
        """The words, once: here they are gone."""
        try:
            return self._bytes[: self._ends[-1] if self._ends else 0].decode()
        finally:
            self.wipe()
