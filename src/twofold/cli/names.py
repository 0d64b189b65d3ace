"""What a shell may complete: names that a running agent knows. Quick, quiet, and starts nothing."""

from __future__ import annotations

from typing import Any

_PATIENCE = 1.0  # seconds; then the shell completes nothing, which is better than to wait
_ENDED = ("done", "failed", "cancelled")


def workspaces(incomplete: str) -> list[tuple[str, str]]:
    """Workspaces on this device, each with its title and state."""
    return [
        (name, _plain(f"{each['title']}, {each['run']}"))
        for each in _ask("list").get("workspaces", [])
        if (name := str(each["workspace"])).startswith(incomplete)
    ]


def sides(incomplete: str) -> list[tuple[str, str]]:
    """What the switcher can bring to the front."""
    own = [("personal", "your own side")] if "personal".startswith(incomplete) else []
    return own + workspaces(incomplete)


def jobs(incomplete: str) -> list[tuple[str, str]]:
    """Every job that is still listed, the newest first."""
    return _jobs(incomplete, ended=True)


def jobs_under_way(incomplete: str) -> list[tuple[str, str]]:
    """Those that can be paused or cancelled."""
    return _jobs(incomplete, ended=False)


def _jobs(incomplete: str, *, ended: bool) -> list[tuple[str, str]]:
    return [
        (job, _plain(f"{each['verb']} {each['workspace']}, {each['state']}"))
        for each in reversed(_ask("jobs").get("operations", []))
        if (job := str(each["operation"])).startswith(incomplete) and (ended or each["state"] not in _ENDED)
    ]


def _plain(untrusted_text: str) -> str:
    """Shells evaluate what completes them: a title from elsewhere brings letters and digits, and nothing that means something."""
    return "".join(char if char.isalnum() or char in " -,." else " " for char in untrusted_text[:80])


def _ask(verb: str) -> dict[str, Any]:
    """A running agent's answer; nothing where there is none in time."""
    from twofold.agent.client import Client
    from twofold.model.errors import TwofoldError

    try:
        with Client(timeout=_PATIENCE) as client:
            return client.call(verb)
    except (TwofoldError, OSError, ValueError):
        return {}
