"""One machine's screen, input and sound on one handed descriptor, with a thread that never waits for anybody's window."""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from jeepney import DBusAddress, HeaderFields, Message, MessageType

from twofold.display import keys
from twofold.display.listener import Listener, Picture
from twofold.display.sound import Sound
from twofold.display.wire import Wire, body
from twofold.model.errors import TwofoldError


def _peer(path: str, interface: str) -> DBusAddress:
    return DBusAddress(path, bus_name="org.qemu", interface=interface)


_CONSOLE_PATH: Final = "/org/qemu/Display1/Console_0"
_CONSOLE: Final = _peer(_CONSOLE_PATH, "org.qemu.Display1.Console")
_KEYBOARD: Final = _peer(_CONSOLE_PATH, "org.qemu.Display1.Keyboard")
_MOUSE: Final = _peer(_CONSOLE_PATH, "org.qemu.Display1.Mouse")
_TOUCH: Final = _peer(_CONSOLE_PATH, "org.qemu.Display1.MultiTouch")
_PROPERTIES: Final = _peer(_CONSOLE_PATH, "org.freedesktop.DBus.Properties")
_AUDIO: Final = _peer("/org/qemu/Display1/Audio", "org.qemu.Display1.Audio")
_PATIENCE: Final = 5.0  # seconds
# Seconds. QEMU 10.0 never closes its end of a listener and knows all listeners by one name, so that one which takes leave
# late takes the next with it (listener_vanished_cb in ui/dbus-console.c): registered seldom, and never in a hurry.
_KEPT: Final = (
    20.0  # how long one stays while nobody looks, for QEMU wakes 33 times a second for it: people go to and fro
)
_SETTLE: Final = 0.25  # between the last listener's end and the next one
_DEAF: Final = 2.0  # a listener that was shown nothing by then is registered anew
_QUEUE: Final = (
    4096  # calls that may wait for a machine that does not read; more is dropped, and all keys released after
)
_NUM_LED, _CAPS_LED = 2, 4  # org.qemu.Display1.Keyboard.Modifiers: scroll 1, num 2, caps 4

Call = tuple[DBusAddress, str, str, tuple[Any, ...]]


class Display:
    """What a window needs of one machine. Every method may be called from any thread, returns at once and never raises.

    `changed` is called on this display's thread when `picture` has something new; `ended` once, when the machine's end of
    the connection is gone or said what it must not, with the error.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        changed: Callable[[], None],
        ended: Callable[[TwofoldError], None],
        sound: bool,
    ) -> None:
        self.picture = Picture(self._tell)
        self._changed, self._ended, self._sound_wanted = changed, ended, sound
        self._sock = sock
        self._calls: deque[Call] = deque(maxlen=_QUEUE)
        self._watch = False
        self._listener: Listener | None = None
        self._first = 0  # the picture's serial when the listener was registered
        self._since = -_SETTLE  # when it was registered, or taken back
        self._hidden = 0.0  # since when nobody looks
        self._sound: Sound | None = None
        self._wire: Wire | None = None
        self._asked_leds = 0
        self._down: set[int] = set()
        self._buttons: set[int] = set()
        self._touches: dict[int, tuple[float, float]] = {}
        self._caps = self._num = False
        self._stop = False
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        self._poke()
        self._thread.join(5)

    def watch(self, on: bool) -> None:
        """Whether the picture is wanted. While it is not, nothing is told; after a while QEMU tells us nothing either."""
        if not on:
            self._hidden = time.monotonic()
        self._watch = on
        self._poke()
        self._tell()

    def _tell(self) -> None:
        if self._watch:
            self._changed()

    @property
    def listening(self) -> bool:
        return self._listener is not None

    @property
    def current(self) -> bool:
        """Whether `picture` is the guest's screen as it is now: its memory, and a listener that hears of changes."""
        return self._listener is not None and self.picture.serial != self._first and self.picture.frame is not None

    # -- input ------------------------------------------------------------------------------------------------------

    def key(self, code: int, down: bool) -> None:
        """`code` is a Linux key code; one that QEMU does not know is dropped."""
        number = keys.qnum(code)
        if not number or (number in self._down) == down:
            return
        if down:
            self._down.add(number)
            self._caps ^= code == keys.CAPS_LOCK
            self._num ^= code == keys.NUM_LOCK
        else:
            self._down.discard(number)
        self._send(_KEYBOARD, "Press" if down else "Release", "u", number)

    def release_all(self) -> None:
        """Let go of everything that is down in the guest: keys, buttons, fingers."""
        for number in list(self._down):
            self._down.discard(number)
            self._send(_KEYBOARD, "Release", "u", number)
        for button in list(self._buttons):
            self.button(button, False)
        for slot, (x, y) in list(self._touches.items()):
            self.touch(3, slot, x, y)

    def locks(self, caps: bool, num: bool) -> None:
        """Make the guest's locks those of the person's keyboard, by the lamps it shows and what we pressed since."""
        for code, differs in ((keys.CAPS_LOCK, caps != self._caps), (keys.NUM_LOCK, num != self._num)):
            if differs:
                self.key(code, True)
                self.key(code, False)

    def point(self, x: int, y: int) -> None:
        """Put the pointer at a guest pixel."""
        self._send(_MOUSE, "SetAbsPosition", "uu", max(x, 0), max(y, 0))

    def button(self, number: int, down: bool) -> None:
        """0 left, 1 middle, 2 right, 5 side, 6 extra (QEMU's InputButton)."""
        (self._buttons.add if down else self._buttons.discard)(number)
        self._send(_MOUSE, "Press" if down else "Release", "u", number)

    def wheel(self, button: int, notches: int = 1) -> None:
        """3 up, 4 down, 7 left, 8 right."""
        for _ in range(min(notches, 20)):
            self._send(_MOUSE, "Press", "u", button)
            self._send(_MOUSE, "Release", "u", button)

    def touch(self, kind: int, slot: int, x: float, y: float) -> None:
        """A finger: `kind` 0 down, 1 moved, 2 up, 3 cancelled; `slot` 0 to 9; in guest pixels."""
        if kind in (0, 1):
            self._touches[slot] = (x, y)
        else:
            self._touches.pop(slot, None)
        self._send(_TOUCH, "SendEvent", "utdd", kind, slot, max(x, 0.0), max(y, 0.0))

    def resize(self, width: int, height: int) -> None:
        """Tell the guest's display adapter which size its window has (a wish; its own desktop decides)."""
        self._send(_CONSOLE, "SetUIInfo", "qqiiuu", 0, 0, 0, 0, width, height)

    def _send(self, address: DBusAddress, member: str, signature: str, *arguments: Any) -> None:
        self._calls.append((address, member, signature, arguments))
        self._poke()

    def _poke(self) -> None:
        try:
            os.write(self._waker, b"x")
        except (BlockingIOError, OSError):
            pass  # it is awake already, or gone

    # -- the display's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._wire = Wire(self._sock)
            self._asked_leds = self._wire.call(
                _PROPERTIES, "Get", "ss", "org.qemu.Display1.Keyboard", "Modifiers", reply=True
            )
            if self._sound_wanted:
                self._sound = self._register_sound(self._wire)
            while not self._stop:
                self._turn(self._wire)
        except TwofoldError as error:
            if not self._stop:
                self._ended(error)
        finally:
            self._finish()

    def _turn(self, wire: Wire) -> None:
        self._listen(wire)
        while self._calls:
            address, member, signature, arguments = self._calls.popleft()
            wire.call(address, member, signature, *arguments)
        # Read while nobody looks too: QEMU's main loop waits for the answer to a new scanout.
        ends = [wire, self._listener_wire(), self._sound_wire(), self._wake]
        ready = select.select([end for end in ends if end], [], [], self._wait())[0]
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._listener and self._listener.wire in ready:
            for message in self._listener.wire.receive():
                self._listener.handle(message)
        if self._sound and self._sound.wire in ready:
            for message in self._sound.wire.receive():
                self._sound.handle(message)
        if wire in ready:
            for message in wire.receive():
                self._hear(message)

    def _listener_wire(self) -> Wire | None:
        return self._listener.wire if self._listener else None

    def _sound_wire(self) -> Wire | None:
        return self._sound.wire if self._sound else None

    def _listen(self, wire: Wire) -> None:
        now = time.monotonic()
        if self._listener and now >= self._due():
            self._listener.wire.close()
            self._listener, self._since = None, now
        if self._watch and self._listener is None and now >= self._since + _SETTLE:
            self._first, self._since = self.picture.serial, now
            self._listener = Listener(self._register(wire, _CONSOLE, "RegisterListener"), self.picture)

    def _due(self) -> float:
        """When the listener is to be taken back."""
        if not self._watch:
            return self._hidden + _KEPT
        return self._since + _DEAF if self.picture.serial == self._first else math.inf

    def _wait(self) -> float | None:
        """Seconds until there is something to do by ourselves."""
        next_one = self._since + _SETTLE if self._watch else math.inf
        until = self._due() if self._listener else next_one
        return None if until == math.inf else max(0.0, until - time.monotonic())

    def _register(self, wire: Wire, address: DBusAddress, member: str) -> Wire:
        ours, theirs = socket.socketpair()
        with theirs:
            wire.call(address, member, "h", theirs.fileno())
        # QEMU's main loop waits for this handshake, so it comes before anything else.
        return Wire(ours)

    def _register_sound(self, wire: Wire) -> Sound:
        """QEMU's main loop also waits for an answer to its first question, so that one is given before any other handshake."""
        sound = Sound(self._register(wire, _AUDIO, "RegisterOutListener"))
        if select.select([sound.wire], [], [], _PATIENCE)[0]:
            for message in sound.wire.receive():
                sound.handle(message)
        return sound

    def _hear(self, message: Message) -> None:
        kind, fields = message.header.message_type, message.header.fields
        if kind is MessageType.method_return and fields.get(HeaderFields.reply_serial) == self._asked_leds:
            self._lamps(body(message, "v")[0])
        elif kind is MessageType.signal and fields.get(HeaderFields.member) == "PropertiesChanged":
            interface, changed, _ = body(message, "sa{sv}as")
            if interface == "org.qemu.Display1.Keyboard" and "Modifiers" in changed:
                self._lamps(changed["Modifiers"])

    def _lamps(self, untrusted_variant: Any) -> None:
        signature, value = untrusted_variant
        if signature == "u":
            self._caps, self._num = bool(value & _CAPS_LED), bool(value & _NUM_LED)

    def _finish(self) -> None:
        if self._listener:
            self._listener.wire.close()
        if self._sound:
            self._sound.close()
        if self._wire:
            self._wire.close()
        self._sock.close()
        os.close(self._wake)
        waker, self._waker = self._waker, -1
        os.close(waker)
