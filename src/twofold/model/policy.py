"""What a workspace may do. Default deny; a document with an unknown or contradictory rule is refused whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError


@dataclass(frozen=True)
class Policy:
    """Times in seconds. Every permission is off unless the company turns it on."""

    offline_seconds: int = 7 * 86400
    heartbeat_seconds: int = 300
    clipboard_to_work: bool = False
    clipboard_from_work: bool = False
    sound_out: bool = True
    sound_in: bool = False
    files_to_work: bool = False
    files_from_work: bool = False
    usb: bool = False
    screenshots: bool = False
    network: str = "none"  # only "none" until the network process exists

    def to_wire(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_wire(cls, untrusted_policy: object) -> Policy:
        """Validate a policy document. Anything not understood refuses the whole: a rule that is ignored protects nobody."""
        if not isinstance(untrusted_policy, dict):
            raise BadInputError("The policy is not a document of rules.")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(str(key)[:40] for key in untrusted_policy.keys() - fields.keys())
        if unknown:
            raise BadInputError(
                f"The policy has rules this version does not know: {', '.join(unknown)}.",
                next="Update Twofold or mend the policy.",
            )
        for name, value in untrusted_policy.items():
            kind = type(fields[name].default)
            if type(value) is not kind:
                raise BadInputError(f"The policy's rule {name} must be {kind.__name__}, not {type(value).__name__}.")
        policy = cls(**untrusted_policy)
        if policy.network != "none":
            raise BadInputError(
                "The policy asks for a network, which this version cannot confine.", next="Set network to 'none'."
            )
        if not 60 <= policy.heartbeat_seconds <= policy.offline_seconds:
            raise BadInputError(
                "The policy contradicts itself: heartbeat_seconds must lie between 60 and offline_seconds."
            )
        return policy
