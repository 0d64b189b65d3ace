"""The house's habits, held by tests: formatting, lint, types, import direction, file size, no traces of a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
SOURCE = TREE / "src" / "twofold"

# Who may import whom (design: Rooms). A name with a dot allows that module alone.
MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "platform": {"model"},
    "trust": {"model", "platform"},
    "image": {"model", "platform", "trust", "guest", "_core"},  # guest: as files that an image is built with
    "vault": {"model", "platform", "_core"},
    "engine": {"model", "platform"},
    "guest": set(),
    "display": {"model", "platform"},
    "switcher": {"model", "platform", "display", "agent.client", "guest.bus"},
    "agent": {"model", "platform", "trust", "image", "vault", "engine", "display.rfb"},
    "server": {"model", "platform", "trust", "image", "_core"},
    "metal": {"model", "platform", "image"},
    "cli": {"model", "platform", "trust", "image", "vault", "engine", "agent", "server", "switcher"},
}

# What the agent's process must never load: it also lives in a phone's control domain.
HEAVY = {"fastapi", "pydantic", "sqlalchemy", "granian", "typer", "rich", "PySide6", "numpy", "httpx", "structlog"}


def sources() -> list[Path]:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TREE, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        return [TREE / name for name in listed.stdout.decode().split("\0") if name and (TREE / name).is_file()]
    return [
        path
        for folder in ("src", "tests", "bench", "demo", "phone", "tools", "crates", "docs", "recipes")
        for path in (TREE / folder).rglob("*")
        if path.is_file()
    ]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_one_way(room: str) -> None:
    wrong = []
    for path in sorted((SOURCE / room).rglob("*.py")):
        for name in imports(path):
            if not name.startswith("twofold."):
                if room == "guest" and name.split(".")[0] not in sys.stdlib_module_names:
                    wrong.append(f"{path.relative_to(TREE)}: {name} is not in the standard library")
                continue
            inner = name.removeprefix("twofold.")
            other = inner.split(".")[0]
            allowed = MAY_IMPORT[room] | {room, "__version__"}
            if other not in allowed and not any(inner == one or inner.startswith(one + ".") for one in allowed):
                wrong.append(f"{path.relative_to(TREE)}: {name}")
    assert not wrong


def test_the_agent_loads_nothing_heavy() -> None:
    code = "import sys, twofold.agent.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=TREE,
        env={"PYTHONPATH": str(TREE / "src")},
    )
    assert not HEAVY & set(done.stdout.split())


def test_programs_start_in_one_place() -> None:
    """`subprocess`, `os.system` and their kin are `platform/run.py`'s alone; the guest agent has a file of its own for it."""
    may = {"src/twofold/platform/run.py", "src/twofold/guest/programs.py"}
    pattern = re.compile(
        r"\bsubprocess\.(?!CompletedProcess|Popen\[|DEVNULL|PIPE|TimeoutExpired|SubprocessError)\w+|\bos\.(system|popen|exec\w+|posix_spawn\w*)\(|create_subprocess_"
    )
    wrong = [
        f"{path.relative_to(TREE)}:{number}"
        for path in SOURCE.rglob("*.py")
        if str(path.relative_to(TREE)) not in may
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong


def test_files_stay_readable() -> None:
    code = [path for path in sources() if path.suffix in {".py", ".rs", ".js", ".css", ".html", ".sh"}]
    long = {str(path.relative_to(TREE)): lines for path in code if (lines := len(path.read_text().splitlines())) > 450}
    assert not long, "a file past about 400 lines is asking to be two"


def test_no_trace_of_one_machine() -> None:
    """Nothing committed may name a folder of the machine it was written on or the hosts its packages came from."""
    bad = re.compile(
        "|".join(
            [
                "/wor" + "k/",
                "(?<!\\w)/roo" + "t/\\.",
                "deb\\.debian\\." + "org",
                "pypi\\." + "org",
                "registry\\.npmjs",
                "files\\.python" + "hosted",
            ]
        )
    )
    named = [
        f"{path.relative_to(TREE)}:{number}: {line.strip()[:80]}"
        for path in sources()
        if path.suffix in {".py", ".rs", ".md", ".toml", ".sh", ".json", ".txt", ""}
        and path.name not in {"Cargo.lock", "LICENSE"}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if bad.search(line)
    ]
    assert not named


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "check",
    [
        ["ruff", "format", "--check", "--quiet", "."],
        ["ruff", "check", "--quiet", "--output-format=concise", "."],
        ["mypy"],
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_checker_is_content(check: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *check], cwd=TREE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
