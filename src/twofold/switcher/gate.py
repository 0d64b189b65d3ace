"""The keyboard gate: every key goes to exactly one life (docs/decisions/0001-keyboard-gate.md).

The gate has an X connection and a thread of its own, so that a slow window can never hold up a switch. It relies on three
promises of the X protocol: a synchronous grab freezes the keyboard at the very key that activates it and queues what is
typed after; requests of one connection are carried out in order; an override-redirect window never takes the focus, which
therefore stays on the person's window all the time that Work is in front.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from Xlib import X, display, error
from Xlib.ext import screensaver

from twofold.display.keys import from_x
from twofold.model.errors import ConflictError, UsageError
from twofold.switcher import xkeys
from twofold.switcher.side import DEVICE_KEYS, KeySink, Layout, Locks, Moved, Side

_GRAB_TRIES: Final = 40


class Gate:
    """One switch key, one window, one sink. Public methods may be called from any thread; all but `still_work` return at once.

    `chords` maps a digit's or other key's name to what `on_chord` is told when it is pressed with Control and Alt while
    Work is in front. `on_move`, `on_chord` and `on_layout` are called on the gate's thread.
    """

    def __init__(
        self,
        window: int,
        sink: KeySink,
        *,
        key: str = "Pause",
        name: str | None = None,
        on_move: Callable[[Moved], None] = lambda moved: None,
        on_chord: Callable[[str], None] = lambda chord: None,
        on_layout: Callable[[Layout], None] = lambda layout: None,
    ) -> None:
        self._display = display.Display(name)
        self._root = self._display.screen().root
        self._window = self._display.create_resource_object("window", window)
        self._sink, self._on_move, self._on_chord, self._on_layout = sink, on_move, on_chord, on_layout
        self._code = xkeys.keycode(self._display, key)
        if not self._code:
            self._display.close()
            raise UsageError(f"This keyboard has no key called {key}.", next="Choose another with --key, e.g. F12.")
        self._space = xkeys.keycode(self._display, "space")
        self._num = xkeys.modifier_mask(self._display, "Num_Lock")
        self._chords = {xkeys.keycode(self._display, str(n)): str(n) for n in range(10)}
        self.side = Side.PERSONAL
        self._down: set[int] = set()
        self._swallowed: set[int] = set()
        self._focus: Any = None
        self._names = b""
        self._group = -1
        self._wishes: list[Side] = []
        self._asks: queue.SimpleQueue[queue.SimpleQueue[bool]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ended = False
        self._grab_switch_key(key)
        self._repeated = xkeys.repeats(self._display, self._code)
        # A held switch key must not switch again; without its repeat there is nothing to tell apart. Restored at the end.
        xkeys.set_repeat(self._display, self._code, on=False)
        self._root.change_attributes(event_mask=X.PropertyChangeMask)
        self._blanked = -1
        if self._display.has_extension("MIT-SCREEN-SAVER"):
            self._blanked = self._display.extension_event.Notify
            self._root.screensaver_select_input(screensaver.NotifyMask)
        self._display.sync()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hide_first(self) -> None:
        """Unmap the window before the gate starts."""
        self._window.unmap()
        self._display.sync()

    def close(self) -> None:
        """Give the keyboard back and end the thread. Idempotent."""
        if self._ended:
            return
        self._ended = True
        os.write(self._waker, b"q")
        if self._thread.ident is not None:
            self._thread.join(5)

    def wish(self, side: Side) -> None:
        """Ask for a side; the gate goes there as soon as its thread runs."""
        with self._lock:
            self._wishes.append(side)
        os.write(self._waker, b"w")

    def still_work(self, patience: float = 0.3) -> bool:
        """Whether the guest has the input, counting every key that came before this call. Not for the gate's own thread.

        The window hears of a click on a connection of its own, perhaps before this thread has read of the switch key that was
        pressed before the click; so the click waits for a round trip here (0.2 ms). No answer within `patience` seconds is no.
        """
        answer: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._asks.put(answer)
        os.write(self._waker, b"a")
        try:
            return answer.get(timeout=patience)
        except queue.Empty:
            return False

    # -- the gate's thread ------------------------------------------------------------------------------------------

    def _grab_switch_key(self, key: str) -> None:
        # Both devices freeze: keys and clicks after the switch key wait until the window is where they belong.
        refused = error.CatchError(error.BadAccess)
        self._root.grab_key(self._code, X.AnyModifier, False, X.GrabModeSync, X.GrabModeSync, onerror=refused)
        self._display.sync()
        if refused.get_error():
            self._display.close()
            raise ConflictError(
                f"Another program already uses the key {key}.",
                safe="Nothing was changed.",
                next="Free the key there, or choose another with --key, for example --key F13.",
            )

    def _run(self) -> None:
        try:
            self._watch_layout()
            while not self._ended:
                if not self._display.pending_events():
                    select.select([self._display.fileno(), self._wake], [], [])
                while self._display.pending_events():
                    self._handle(self._display.next_event())
                self._grant_wishes()
                self._answer_asks()
        except (error.ConnectionClosedError, OSError):
            # The X server is gone, and with it every grab; there is nothing left to give back.
            self._sink.release_all()
            self._move(Side.PERSONAL, 0)
            return
        if self.side is not Side.PERSONAL:
            self._leave(0)
        xkeys.set_repeat(self._display, self._code, on=self._repeated)
        self._display.sync()
        self._display.close()

    def _grant_wishes(self) -> None:
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            pass
        with self._lock:
            wishes, self._wishes = self._wishes, []
        for side in wishes:
            if side is self.side:
                continue
            if side is Side.PERSONAL:
                self._leave(0)
            elif side is Side.TYPING and self.side is Side.WORK:
                self._type()
            elif side is Side.WORK:
                self._enter(0, self._display.screen().root.query_pointer().mask)

    def _answer_asks(self) -> None:
        while not self._asks.empty():
            answer = self._asks.get()
            self._display.sync()
            # Each key that is let through may set free the next one of those that wait behind it in the server.
            while self._display.pending_events():
                self._handle(self._display.next_event())
                self._display.sync()
            answer.put(self.side is Side.WORK)

    def _handle(self, event: Any) -> None:
        if event.type == X.PropertyNotify:
            self._watch_layout()
        elif event.type == X.MappingNotify:
            self._display.refresh_keyboard_mapping(event)
            # A new keymap resets every key's repeat (setxkbmap).
            xkeys.set_repeat(self._display, self._code, on=False)
        elif event.type == self._blanked:
            # A locker comes with the blank screen and needs the keyboard; nobody is at Work then anyway.
            if event.state == screensaver.StateOn and self.side is not Side.PERSONAL:
                self._leave(0)
        elif event.type == X.KeyPress:
            self._press(event)
        elif event.type == X.KeyRelease:
            self._release(event)

    def _press(self, event: Any) -> None:
        self._note_group(event.state)
        code = event.detail
        if code == self._code:
            if self.side is Side.PERSONAL:
                self._enter(event.time, event.state)
            else:
                self._leave(event.time)
            return
        if self.side is not Side.WORK:
            self._thaw()
            return
        if code == self._space and event.state & X.ControlMask and not event.state & (X.Mod1Mask | X.Mod4Mask):
            self._swallowed.add(code)
            self._type()
            return
        if code in self._chords and event.state & X.ControlMask and event.state & X.Mod1Mask:
            self._swallowed.add(code)
            self._release_guest()
            self._on_chord(self._chords[code])
        elif code not in self._down and from_x(code) not in DEVICE_KEYS:
            self._down.add(code)
            self._sink.key(from_x(code), True)
        self._thaw()

    def _release(self, event: Any) -> None:
        code = event.detail
        if code in self._down and not self._is_repeat(code):
            self._down.discard(code)
            self._sink.key(from_x(code), False)
        self._swallowed.discard(code)
        if self.side is not Side.PERSONAL:
            self._thaw()

    def _is_repeat(self, code: int) -> bool:
        """Whether this release is half of an auto-repeat: the server then still counts the key as down."""
        return code in xkeys.held(self._display)

    def _thaw(self) -> None:
        self._display.allow_events(X.SyncKeyboard, X.CurrentTime)
        self._display.flush()

    def _enter(self, pressed: int, state: int) -> None:
        """Bring Work to the front. By a key press the keyboard is frozen now, and stays so until our grab holds it."""
        if self.side is Side.TYPING:
            self._hold()
            self._restore_focus()
            self._display.flush()
            self._move(Side.WORK, pressed)
            return
        self._window.configure(stack_mode=X.Above)
        self._window.map()
        if not self._hold():
            self._window.unmap()
            self._display.allow_events(X.AsyncKeyboard, X.CurrentTime)
            self._display.allow_events(X.AsyncPointer, X.CurrentTime)
            self._display.flush()
            return
        self._sink.locks(Locks(bool(state & X.LockMask), bool(self._num and state & self._num)))
        self._move(Side.WORK, pressed)

    def _hold(self) -> bool:
        """Take the keyboard; False where another program will not let go of it."""
        for attempt in range(_GRAB_TRIES):
            status = self._root.grab_keyboard(False, X.GrabModeAsync, X.GrabModeSync, X.CurrentTime)
            if status == X.GrabSuccess:
                self._thaw()
                return True
            time.sleep(0.01 if attempt else 0.002)
        return False

    def _leave(self, pressed: int) -> None:
        """Put Work away. The order of these requests is the whole point: the last of them lets queued keys go on."""
        self._release_guest()
        if self.side is Side.TYPING:
            self._restore_focus()
        self._window.unmap()
        self._display.ungrab_keyboard(X.CurrentTime)
        self._display.allow_events(X.AsyncPointer, X.CurrentTime)
        self._display.flush()
        self._move(Side.PERSONAL, pressed)

    def _type(self) -> None:
        """Let our own window have the keys: focus first, then let go, so that nothing lies between."""
        self._release_guest()
        self._focus = self._display.get_input_focus()
        self._window.set_input_focus(X.RevertToParent, X.CurrentTime)
        self._display.ungrab_keyboard(X.CurrentTime)
        self._display.flush()
        self._move(Side.TYPING, 0)

    def _restore_focus(self) -> None:
        focus, self._focus = self._focus, None
        if focus is None:
            return
        gone = error.CatchError(error.BadWindow, error.BadMatch)
        self._display.set_input_focus(focus.focus, focus.revert_to, X.CurrentTime, onerror=gone)

    def _release_guest(self) -> None:
        self._down.clear()
        self._sink.release_all()

    def _move(self, side: Side, pressed: int) -> None:
        self.side = side
        self._on_move(Moved(side, pressed, time.monotonic()))

    # -- the person's layout ----------------------------------------------------------------------------------------

    def _note_group(self, state: int) -> None:
        if xkeys.group(state) != self._group:
            self._group = xkeys.group(state)
            self._tell_layout()

    def _watch_layout(self) -> None:
        names = xkeys.rules_names(self._display)
        if names != self._names:
            self._names = names
            self._tell_layout()

    def _tell_layout(self) -> None:
        found = xkeys.layout(self._names, max(self._group, 0))
        if found is not None:
            self._on_layout(found)
