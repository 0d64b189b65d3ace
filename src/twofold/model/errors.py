"""The errors people see. Each says what happened, what is safe, and what to do next.

    TwofoldError            exit 1   something we did not foresee
    ├── UsageError          exit 2   the words of the call are off
    ├── MissingError        exit 3   this machine lacks something (a package, a device, a permission)
    ├── NotFoundError       exit 4   no such workspace, image, application ...
    ├── RefusedError        exit 5   policy, lease, signature or permission says no
    ├── ConflictError       exit 6   not in this state: it runs already, another holds it
    ├── DamagedError        exit 7   bytes are not what they were
    ├── NoRoomError         exit 8   memory or disk is short
    ├── UnreachableError    exit 9   a peer (server, agent, QEMU) is not there
    ├── TimedOutError       exit 10  a peer is there and did not answer in time
    └── BadInputError       exit 11  a file or message from outside is not valid

An interrupt by the person ends with 130. `docs/cli.md` lists these for scripts.
"""

from __future__ import annotations

from typing import ClassVar


class TwofoldError(Exception):
    """Something went wrong that a person should read. `happened`, `safe` and `next` are whole sentences."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "failed"

    def __init__(self, happened: str, *, safe: str = "", next: str = "") -> None:  # noqa: A002 - the word people read
        super().__init__(happened)
        self.happened = happened
        self.safe = safe
        self.next = next

    def __str__(self) -> str:
        return "\n".join(line for line in (self.happened, self.safe, self.next) if line)

    def to_wire(self) -> dict[str, str]:
        return {"code": self.code, "happened": self.happened, "safe": self.safe, "next": self.next}


class UsageError(TwofoldError):
    exit_code, code = 2, "usage"


class MissingError(TwofoldError):
    exit_code, code = 3, "missing"


class NotFoundError(TwofoldError):
    exit_code, code = 4, "not-found"


class RefusedError(TwofoldError):
    exit_code, code = 5, "refused"


class UnknownError(RefusedError):
    """The server does not know who asks: status 401, the same for every path."""


class ConflictError(TwofoldError):
    exit_code, code = 6, "conflict"


class DamagedError(TwofoldError):
    exit_code, code = 7, "damaged"


class NoRoomError(TwofoldError):
    exit_code, code = 8, "no-room"


class UnreachableError(TwofoldError):
    exit_code, code = 9, "unreachable"


class TimedOutError(TwofoldError):
    exit_code, code = 10, "timed-out"


class BadInputError(TwofoldError):
    exit_code, code = 11, "bad-input"


BY_CODE: dict[str, type[TwofoldError]] = {
    kind.code: kind
    for kind in (
        TwofoldError, UsageError, MissingError, NotFoundError, RefusedError, ConflictError,
        DamagedError, NoRoomError, UnreachableError, TimedOutError, BadInputError,
    )
}  # fmt: skip


def from_wire(untrusted_error: object) -> TwofoldError:
    """Rebuild an error that a peer sent; anything malformed becomes a plain `TwofoldError`."""
    if not isinstance(untrusted_error, dict):
        return TwofoldError("A peer sent an error that cannot be read.")
    text = {key: str(untrusted_error.get(key, ""))[:2000] for key in ("happened", "safe", "next")}
    kind = BY_CODE.get(str(untrusted_error.get("code")), TwofoldError)
    return kind(text["happened"] or "A peer failed without saying why.", safe=text["safe"], next=text["next"])
