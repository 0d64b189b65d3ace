"""From the codes that X and Linux give keys to the scan codes that QEMU's display takes ("qnum").

Source: keycodemapdb, columns linux and qnum (QEMU's own table is generated from it).
"""

from __future__ import annotations

from typing import Final

# Linux input event codes (linux/input-event-codes.h) 1 to 88 are the PC's first scan code set; these are not.
_OTHERS: Final[dict[int, int]] = {
    85: 0x76, 89: 0x73, 90: 0x78, 91: 0x77, 92: 0x79, 93: 0x70, 94: 0x7B, 95: 0x5C, 96: 0x9C, 97: 0x9D, 98: 0xB5,
    99: 0xB7, 100: 0xB8, 101: 0x5B, 102: 0xC7, 103: 0xC8, 104: 0xC9, 105: 0xCB, 106: 0xCD, 107: 0xCF, 108: 0xD0,
    109: 0xD1, 110: 0xD2, 111: 0xD3, 112: 0xEF, 113: 0xA0, 114: 0xAE, 115: 0xB0, 116: 0xDE, 117: 0x59, 118: 0xCE,
    119: 0xC6, 121: 0x7E, 123: 0x8D, 124: 0x7D, 125: 0xDB, 126: 0xDC, 127: 0xDD, 128: 0xE8, 129: 0x85, 130: 0x86,
    131: 0x87, 132: 0x8C, 133: 0xF8, 134: 0x64, 135: 0x65, 136: 0xC1, 137: 0xBC, 138: 0xF5, 139: 0x9E, 140: 0xA1,
    142: 0xDF, 143: 0xE3, 155: 0xEC, 156: 0xE6, 157: 0xEB, 158: 0xEA, 159: 0xE9, 163: 0x99, 164: 0xA2, 165: 0x90,
    166: 0xA4, 171: 0x81, 172: 0xB2, 173: 0xE7, 183: 0x5D, 184: 0x5E, 185: 0x5F, 186: 0x55, 187: 0x83, 188: 0xF7,
    189: 0x84, 190: 0x5A, 191: 0x74, 192: 0xF9, 193: 0x6D, 194: 0x6F, 217: 0xE5,
}  # fmt: skip

CAPS_LOCK: Final = 58
NUM_LOCK: Final = 69
SCROLL_LOCK: Final = 70


def qnum(code: int) -> int:
    """The scan code for a Linux key code; 0 where QEMU knows none (the key is then not sent)."""
    if code in _OTHERS:
        return _OTHERS[code]
    return code if 1 <= code <= 88 else 0


def from_x(keycode: int) -> int:
    """The Linux key code for an X keycode: every X server on Linux with evdev rules adds 8 (xkeyboard-config, evdev)."""
    return keycode - 8
