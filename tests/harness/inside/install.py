"""Inside a small guest whose system disk is writable: packages are installed for ever, each step said before and after.

Its words: `found BEGUN PACKAGE=VERSION:STATE…` once, then `begun N` (durable on the disk before it is said) and `done N`.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.harness.inside.guest import main, say, sh
from tests.harness.inside.plan import file_name, step

BEGUN = Path("/var/lib/begun")
DPKG = ["dpkg", "--no-pager", "--force-confnew", "--force-downgrade"]


def note(number: int) -> None:
    """Durably."""
    fresh = BEGUN.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(BEGUN)
    folder = os.open(BEGUN.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def states() -> dict[str, str]:
    """By package: version, and the three letters of its state."""
    shown = sh("dpkg-query", "-W", "-f", "${Package} ${Version}:${db:Status-Abbrev}\n", "twofold-test-*", check=False)
    return dict(line.split(maxsplit=1) for line in shown.splitlines() if line.startswith("twofold-test-"))


def look() -> int:
    """What the disk holds; says it, mends what was cut off, and returns the step that was begun last."""
    begun = int(BEGUN.read_text()) if BEGUN.exists() else 0
    found = states()
    unfinished = f"twofold-test-{step(begun)[0]}" if begun else ""
    for name, state in found.items():
        whole = state.strip().endswith(":ii")
        if whole and name != unfinished:
            # Every file against the sums that dpkg took when it unpacked it. Conffiles are marked, and say what they must.
            wrong = [line for line in sh("dpkg", "--verify", name, check=False).splitlines() if " c " not in line]
            if wrong:
                say("wrong", name, wrong[:5])
            version = state.split(":")[0]
            for path, text in [
                (f"/var/lib/{name}/configured", version),
                (f"/etc/{name}/settings", f"version={version}"),
            ]:
                if Path(path).read_text().strip() != text:
                    say("wrong", path, repr(Path(path).read_text()))
    say("found", begun, *(f"{name}={state.replace(' ', '')}" for name, state in sorted(found.items())))
    # One that was cut off while it was being unpacked must be unpacked again, which comes next.
    sh(*DPKG, "--configure", "-a", check=False)
    return begun


def work() -> None:
    sh("mount", "-t", "tmpfs", "tmpfs", "/dev/shm", check=False)
    number = max(look(), 1)
    while True:
        package, version = step(number)
        note(number)
        say("begun", number)
        sh(*DPKG, "-i", f"/srv/packages/{file_name(package, version)}")
        left = sh("dpkg", "--audit", f"twofold-test-{package}")
        assert not left, left
        say("done", number)
        number += 1


main(work)
