"""The launcher's errands: what applications there are, their icons, and starting one until its window is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twofold.model.errors import TwofoldError
from twofold.switcher import look
from twofold.switcher.card import Card
from twofold.switcher.launcher import App, icon
from twofold.switcher.link import Link
from twofold.switcher.session import Session
from twofold.switcher.window import Window


class Starter:
    """`say` tells a harness."""

    def __init__(self, window: Window, link: Link, say: Callable[..., None]) -> None:
        self._window, self._link, self._say = window, link, say
        self._launches: dict[str, str] = {}
        self._early: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        """An application is being started."""
        return bool(self._launches)

    def open(self, session: Session, cards: Sequence[Card]) -> None:
        launcher, name = self._window.launcher, session.card.name
        launcher.open(session.card, cards)
        self._say(launcher=True)

        def got(answer: dict[str, Any]) -> None:
            launcher.show_apps([App.from_wire(each) for each in answer.get("apps", []) if isinstance(each, dict)])
            ratio = self._window.devicePixelRatioF()
            self._say(apps={app: [round(x * ratio), round(y * ratio)] for app, (x, y) in launcher.places().items()})
            for wanted in launcher.missing():
                self._link.ask("icon", partial(shown, wanted), workspace=name, icon=wanted)

        def shown(icon_id: str, answer: dict[str, Any]) -> None:
            image = icon(str(answer.get("png", "")))
            if image is not None:
                launcher.show_icon(icon_id, image)

        self._link.ask("apps", got, workspace=name)

    def launch(self, session: Session, app: str) -> None:
        self._say(launched="")
        self._window.note.say("Starting …", look.BUSY, 60)

        def started(answer: dict[str, Any]) -> None:
            token = str(answer["launch"])
            self._launches[token] = app
            if token in self._early:
                self.heard(token, self._early.pop(token))

        def failed(error: TwofoldError) -> None:
            self._window.note.say(error.happened, look.BAD, 6)

        self._link.ask("launch", started, failed, workspace=session.card.name, app=app)

    def heard(self, token: str, kind: str) -> None:
        """The event `window` or `gone` of a launch."""
        app = self._launches.pop(token, "")
        if not app:
            # Events and answers come on two connections: this one may be ahead of the answer that names its token.
            self._early = dict([*self._early.items(), (token, kind)][-16:])
            return
        if kind == "window":
            self._say(launched=app)
        self._window.note.say("" if kind == "window" else "It ended before it showed a window.", look.BAD, 4)
