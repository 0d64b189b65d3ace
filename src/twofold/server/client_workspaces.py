"""The administrator's client, as far as workspaces go: where they are, their past, requests to devices, policies by scope."""

from __future__ import annotations

import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from twofold.model.errors import NotFoundError
from twofold.model.policy import Scope


class Workspaces(ABC):
    """What `twofold.server.client.Admin` can do with workspaces. `number` is a grant's. Raises as `Admin` does."""

    @abstractmethod
    def _call(
        self, method: str, what: str, body: dict[str, Any] | None = None, limit: int = 8 << 20
    ) -> dict[str, Any]: ...

    def list_workspaces(self) -> list[dict[str, Any]]:
        """View's columns: `[{"number", "user", "workspace", "title", "pool", "group", "channel", "image", "version",
        "next_version", "status", "paused", "transfer", "run", "since", "device", "device_name", "contact", "offline_for",
        "backed_up", "verified", "lease_left", "token",
        "head", "branches", "asked", "ends"}]`; times in Unix seconds, spans in seconds."""
        rows: list[dict[str, Any]] = self._call("GET", "workspaces")["workspaces"]
        return rows

    def find_workspace(self, user: str, workspace: str) -> dict[str, Any]:
        """
        Raises:
            NotFoundError: the user has none of that name.
        """
        for row in self.list_workspaces():
            if (row["user"], row["workspace"]) == (user, workspace):
                return row
        raise NotFoundError(f"{user} has no workspace '{workspace}'.")

    def workspace(self, number: int) -> dict[str, Any]:
        """One row, and `holders`: `[{"token", "device_id", "since", "until", "how"}]`."""
        return self._call("GET", f"workspaces/{int(number)}")

    def list_generations(self, number: int) -> list[dict[str, Any]]:
        """Line and branches, newest first: `[{"id", "kind", "parent", "content", "number", "epoch", "token", "time",
        "committed", "device", "device_name", "bytes", "kept"}]`; kind is `line`, `branch` or `restore`."""
        rows: list[dict[str, Any]] = self._call("GET", f"workspaces/{int(number)}/generations")["generations"]
        return rows

    def generation(self, number: int, generation: str) -> dict[str, Any]:
        """One generation, its signed document and `files`: `[{"digest", "size", "here"}]`."""
        return self._call("GET", f"workspaces/{int(number)}/generations/{_quoted(generation)}", limit=256 << 20)

    def loss(self, number: int) -> dict[str, Any]:
        """What breaking the lease may lose: `{"device_name", "backed_up", "unsaved_seconds", "seen", "may_run_until", "loss"}`.
        Show it, then hand `loss` to `break_lease`."""
        return self._call("GET", f"workspaces/{int(number)}/loss")

    def break_lease(self, number: int, loss: str, why: str = "") -> str:
        """End the lease for its holder, whose device id is returned. What it still sends is kept as a branch.

        Raises:
            ConflictError: nobody holds it, or what may be lost has changed.
        """
        return str(self._call("POST", f"workspaces/{int(number)}/break", {"loss": loss, "why": why})["device"])

    def restore(self, number: int, generation: str, head: str) -> str:
        """Make an earlier generation, or a branch, the newest; `head` is the newest as it was shown. Returns its new id.

        Raises:
            ConflictError: somebody holds the lease, or the newest is another.
        """
        body = {"generation": generation, "head": head}
        return str(self._call("POST", f"workspaces/{int(number)}/restore", body)["id"])

    def ask(self, number: int, verb: str, device: str = "", version: int = 0) -> dict[str, Any]:
        """Ask the holder (or `device`) to `lock`, `unlock`, `wipe`, `replicate`, `discard`, `replicate-discard`, `reset` or
        `upgrade` (to `version`; 0: what its channel has; of what nobody has the next holder is asked: `command` is 0). Returns
        `{"command", "device", "verb", "version", "state", "asked", "by", "given", "ended", "receipt"}`."""
        body = {"verb": verb, "device": device} | ({"version": version} if version else {})
        return self._call("POST", f"workspaces/{int(number)}/commands", body)

    def list_asked(self, number: int) -> list[dict[str, Any]]:
        """The last 200 requests, newest first, with their receipts."""
        rows: list[dict[str, Any]] = self._call("GET", f"workspaces/{int(number)}/commands")["commands"]
        return rows

    def withdraw(self, number: int, command: int) -> None:
        """Take back what was not given out yet."""
        self._call("DELETE", f"workspaces/{int(number)}/commands/{int(command)}")

    def keys(self, number: int) -> dict[str, Any] | None:
        """The wrapped keys (docs/keys.md), for whoever has the company's recovery key."""
        found: dict[str, Any] | None = self._call("GET", f"workspaces/{int(number)}/keys")["keys"]
        return found

    def add_wraps(self, number: int, wraps: Sequence[Mapping[str, Any]]) -> None:
        """Add wraps `{"epoch", "for", "id", "sealed"}` of an epoch that is there."""
        self._call("POST", f"workspaces/{int(number)}/wraps", {"wraps": [dict(wrap) for wrap in wraps]})

    def explain_policy(self, number: int) -> list[dict[str, Any]]:
        """`[{"rule", "value", "scope", "name"}]`; scope is empty where the default holds."""
        rows: list[dict[str, Any]] = self._call("GET", f"workspaces/{int(number)}/policy")["policy"]
        return rows

    def list_policies(self) -> list[dict[str, Any]]:
        """`[{"scope", "name", "rules", "changed"}]` of the scopes wider than a workspace."""
        rows: list[dict[str, Any]] = self._call("GET", "policies")["policies"]
        return rows

    def set_policy(self, scope: Scope, name: str, rules: Mapping[str, Any]) -> int:
        """Set what a scope says, whole; `name` is a pool, a user, a grant's number (for a group too), or "" for everybody.
        Returns how many workspaces it reaches.

        Raises:
            BadInputError: a rule is unknown, or a workspace's policy would contradict itself; nothing was changed.
        """
        what = scope.value if scope is Scope.GLOBAL else f"{scope.value}/{_quoted(name)}"
        return int(self._call("PUT", f"policies/{what}", {"rules": dict(rules)})["workspaces"])


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
