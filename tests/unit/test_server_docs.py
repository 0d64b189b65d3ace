"""docs/server.md says every rule of the policy, and its default."""

from __future__ import annotations

import re
from pathlib import Path

from twofold.model.policy import Policy

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
SPOKEN = {True: "yes", False: "no"}


def test_every_rule_and_its_default_are_documented() -> None:
    said: dict[str, str] = {}
    for line in PAGE[PAGE.index("| rule |") :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        names, default = (cell.strip() for cell in line.split("|")[1:3])
        rules = re.findall(r"`(\w+)`", names)
        each = [re.sub(r" \(.*\)", "", value.strip()) for value in default.split(",")]
        said |= dict(zip(rules, each if len(each) == len(rules) else each * len(rules), strict=True))
    want = {name: SPOKEN.get(value, str(value)) for name, value in Policy().to_wire().items() if type(value) is bool}
    want |= {name: str(value) for name, value in Policy().to_wire().items() if type(value) is int}
    want |= {name: f"`{value}`" for name, value in Policy().to_wire().items() if type(value) is str}
    assert said == want
