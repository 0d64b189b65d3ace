"""Which package is installed when: for the guest that does it and the host that checks it. Standard library alone."""

from __future__ import annotations

PACKAGES = 5
VERSIONS = (1, 2)


def step(number: int) -> tuple[int, int]:
    """Package and version of installation `number`, from 1."""
    package, turn = (number - 1) % PACKAGES, (number - 1) // PACKAGES
    return package, VERSIONS[turn % len(VERSIONS)]


def file_name(package: int, version: int) -> str:
    return f"twofold-test-{package}_{version}.deb"


def expected(done: int) -> dict[int, int]:
    """Versions by package after so many installations."""
    return dict(step(number) for number in range(1, done + 1))
