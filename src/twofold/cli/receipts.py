"""What has left this device, and what was destroyed then."""

from __future__ import annotations

from twofold.cli import ask, out
from twofold.cli.out import Form

_HOW = {"wipe": "wiped", "checkin": "checked in", "discard": "discarded", "remove": "removed"}


def receipts(output: out.Output = Form.TABLE) -> None:
    """What has left this device, newest first: when, by whom, what was destroyed. The list never leaves it."""
    with ask.agent() as client:
        found = client.call("receipts")["receipts"][::-1]
    if output is not Form.TABLE:
        out.document("receipts", {"receipts": found})
        return
    lines = [
        [
            out.when(each["removed_at"]),
            each["workspace"],
            each["title"],
            f"{_HOW.get(each['verb'], each['verb'])} by {'your company' if each['company'] else 'you'}",
            "destroyed" if each["key_destroyed"] else "had none any more",
            out.size(each["sealed_bytes_removed"]),
        ]
        for each in found
    ]
    if lines:
        out.table(["when", "workspace", "name", "how", "its key", "sealed, removed"], lines)
    else:
        out.note("Nothing has left this device yet.")
