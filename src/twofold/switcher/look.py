"""Sizes, colours and type in one place. Sizes are logical pixels; colours are told apart at 4.5:1 or better on their ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PySide6.QtGui import QColor, QFont

BAR: Final = QColor("#12161b")
GROUND: Final = QColor("#0c0f13")
RAISED: Final = QColor("#1e242c")
HOVER: Final = QColor("#2b333d")
LINE: Final = QColor("#303844")
TEXT: Final = QColor("#eef1f5")
QUIET: Final = QColor("#a3adba")
GOOD: Final = QColor("#5fd39a")
BUSY: Final = QColor("#f2c14e")
BAD: Final = QColor("#ff7b72")
DIM: Final = QColor(10, 13, 17, 224)


@dataclass(frozen=True)
class Metrics:
    """`frame` is the workspace's colour around everything; `bar` the top bar or the phone's handle; `rail` the left rail."""

    frame: int
    bar: int
    rail: int
    columns: int  # 0: as many as fit
    phone: bool


DESKTOP: Final = Metrics(frame=4, bar=32, rail=56, columns=0, phone=False)
PHONE: Final = Metrics(frame=6, bar=44, rail=0, columns=4, phone=True)
PHONE_BELOW: Final = 600


def font(pixels: int, *, bold: bool = False) -> QFont:
    face = QFont()
    face.setFamilies(["Inter", "Cantarell", "Noto Sans", "DejaVu Sans"])
    face.setPixelSize(pixels)
    face.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
    return face
