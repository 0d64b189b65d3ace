"""Keep Python 3.11 alive under PySide6 6.12, whose wheels count references as if None could not die (PEP 683, Python 3.12).

Seen: every call of a Qt method that returns nothing takes one reference from None, and after some minutes of painting the
interpreter ends with "none_dealloc: deallocating None". Remove this once the locked PySide6 is right on 3.11, or 3.11 is gone.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_PLENTY: Final = 1 << 60


def immortalise() -> None:
    """Give the singletons more references than can ever be taken. Does nothing where Python does so itself."""
    if sys.version_info >= (3, 12) or sys.implementation.name != "cpython":
        return
    for singleton in (None, True, False, Ellipsis, NotImplemented):
        if sys.getrefcount(singleton) < _PLENTY // 2:
            ctypes.c_ssize_t.from_address(id(singleton)).value += _PLENTY
