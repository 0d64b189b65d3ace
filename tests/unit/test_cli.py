"""The command line without a workspace: help, the documented table, words that are off, output for people and for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twofold.agent.client import Client
from twofold.cli import out, reference
from twofold.cli.out import Form
from twofold.model.errors import BY_CODE, UnreachableError, UsageError
from twofold.platform import dirs

TREE = Path(__file__).resolve().parents[2]
_DOCUMENT = TREE / "docs" / "cli.md"


def twofold(home: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "XDG_RUNTIME_DIR") if name in os.environ}
    env |= {"TWOFOLD_HOME": str(home), "PYTHONPATH": str(TREE / "src")}
    return subprocess.run(
        [sys.executable, "-m", "twofold.cli", *words],
        env=env, input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose agent, where a command started one, is ended afterwards."""
    folder = tmp_path_factory.mktemp("home")
    yield folder
    os.environ["TWOFOLD_HOME"] = str(folder)
    try:
        with Client() as client:
            client.call("quit")
    except UnreachableError:
        pass
    finally:
        del os.environ["TWOFOLD_HOME"]


def test_the_documented_verbs_are_the_real_ones() -> None:
    text = _DOCUMENT.read_text()
    assert reference.renew(text) == text, "renew it:  python -m twofold.cli.reference docs/cli.md"


def test_every_exit_code_is_documented() -> None:
    text = _DOCUMENT.read_text()
    for kind in BY_CODE.values():
        assert f"| {kind.exit_code} |" in text


def test_every_documented_command_answers_help(home: Path) -> None:
    from twofold.cli import run

    for line in reference.verbs().splitlines()[2:]:
        words = [word for word in line.split("`")[1].split()[1:] if word.islower() and word.isalpha()]
        assert run([*words, "--help"]) == 0, words


def test_help_is_quick(home: Path) -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert twofold(home, "--help").returncode == 0
        took.append(time.monotonic() - began)
    assert min(took) < 1.0, took  # 0.13 s on an idle machine; without lazy imports it was above a second


def test_help_loads_neither_a_window_nor_a_server() -> None:
    code = "import sys; from twofold.cli.table import app; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(TREE / "src")}, capture_output=True, text=True, check=True
    )
    assert not {"rich", "PySide6", "fastapi", "sqlalchemy", "cryptography", "asyncio"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nonsense"], 2), (["remove"], 2), (["start", "--nonsense"], 2), (["list", "-o", "xml"], 2),
        (["status"], 9), (["agent", "status"], 9), (["agent", "quit"], 9),
        (["whoami"], 5), (["user", "list"], 5), (["policy", "validate", "/nonexistent"], 4), (["version"], 0),
    ],
)  # fmt: skip
def test_exit_codes_without_an_agent(tmp_path: Path, words: list[str], code: int) -> None:
    done = twofold(tmp_path, *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stderr == "") == (code == 0)
    assert "\x1b" not in done.stdout + done.stderr


def test_the_agent_is_started_on_demand_and_quits_when_asked(home: Path) -> None:
    done = twofold(home, "list", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"schema": "twofold-workspaces-1", "workspaces": [], "available": []}
    status = json.loads(twofold(home, "agent", "status", "-o", "json").stdout)
    assert status["schema"] == "twofold-agent-1"
    assert status["running"] == []
    assert twofold(home, "info").returncode == 4
    assert twofold(home, "checkout", "work").returncode == 4  # not enrolled: said so, nothing made
    assert "not enrolled" in twofold(home, "checkout", "work").stderr
    failed = twofold(home, "jobs", "list")
    assert failed.stdout.splitlines()[0].split() == [
        "operation",
        "verb",
        "workspace",
        "state",
        "place",
        "step",
        "sent",
        "rate",
        "left",
    ]
    assert "failed" in failed.stdout
    assert "checkout" in twofold(home, "log").stdout
    assert twofold(home, "agent", "quit").returncode == 0
    assert twofold(home, "agent", "status").returncode == 9


def test_two_commands_at_once_start_one_agent(tmp_path: Path) -> None:
    env = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR") if name in os.environ}
    env |= {"TWOFOLD_HOME": str(tmp_path), "PYTHONPATH": str(TREE / "src")}
    argv = [sys.executable, "-m", "twofold.cli", "list"]
    both = [subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [each.wait(60) for each in both] == [0, 0, 0]
    assert twofold(tmp_path, "agent", "quit").returncode == 0


def test_a_policy_file_is_checked(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"clipboard_to_work": true}')
    bad.write_text('{"clipboard_to_wrok": true}')
    done = twofold(tmp_path, "policy", "validate", str(good), "-o", "json")
    assert json.loads(done.stdout)["clipboard_to_work"] is True
    assert json.loads(done.stdout)["clipboard_from_work"] is False
    refused = twofold(tmp_path, "policy", "validate", str(bad))
    assert refused.returncode == 11
    assert "clipboard_to_wrok" in refused.stderr


def test_what_destroys_wants_a_yes_where_there_is_nobody_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="needs a yes"):
        out.confirm("Remove it?", lost="all of it.", safe="the rest.", yes=False)
    out.confirm("Remove it?", lost="all of it.", safe="the rest.", yes=True)
    assert capsys.readouterr().err.count("Lost: all of it.\nSafe: the rest.\n") == 2


def test_a_name_from_outside_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out.rows(Form.TABLE, "apps", ["name"], [{"name": "\x1b[31mred\x07\r\x9b"}], "")
    out.fields(Form.TABLE, "app", {"name": "\x1b]0;title\x07"})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and "\x9b" not in shown and "\r" not in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(tmp_path: Path, shell: str) -> None:
    assert "_TWOFOLD_COMPLETE" in twofold(tmp_path, "completion", shell).stdout


_BASH = """
eval "$(twofold completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _twofold_completion twofold; printf '%s\n' "${COMPREPLY[@]}"
"""


def completed(home: Path, folder: Path, *words: str) -> list[str]:
    """What a real bash would offer for the last word."""
    program = folder / "bin" / "twofold"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m twofold.cli "$@"\n')
    program.chmod(0o755)
    env = {name: os.environ[name] for name in ("HOME", "LANG", "XDG_RUNTIME_DIR") if name in os.environ}
    env |= {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(TREE / "src"),
        "TWOFOLD_HOME": str(home),
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", _BASH, "bash", "twofold", *words], env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_and_no_agent_is_started_for_it(tmp_path: Path) -> None:
    assert completed(tmp_path, tmp_path, "st") == ["status", "start", "stop"]
    assert completed(tmp_path, tmp_path, "jobs", "") == ["list", "show", "pause", "resume", "cancel"]
    assert completed(tmp_path, tmp_path, "start", "") == []
    assert completed(tmp_path, tmp_path, "switch", "p") == ["personal"]
    assert twofold(tmp_path, "status").returncode == 9, "no agent was started"
    code = "import sys; from twofold.cli import names; names.workspaces(''); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(TREE / "src"), "TWOFOLD_HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not {"rich", "PySide6", "cryptography", "asyncio", "typer", "tuf"} & set(done.stdout.split())


def test_a_shell_is_told_nothing_that_it_would_carry_out() -> None:
    from twofold.cli import names

    assert names._plain('$(touch x)`id`"; rm -r ~\n\x1b[31m\\ Acme, off') == "  touch x  id    rm -r     31m  Acme, off"


def test_the_socket_path_stays_short() -> None:
    assert len(os.fsencode(dirs.dirs().workspace_runtime("w" * 40) / "agent-channel.sock")) < 108


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every verb that there is, so that a new one is in the tests below by itself."""
    from typer.main import get_command

    from twofold.cli.table import app

    def inside(command: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
        if not hasattr(command, "commands"):
            yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from inside(inner, [*words, name])

    return inside(get_command(app), [])


def test_every_verb_that_lists_prints_yaml_as_well_and_says_the_same(home: Path, capsys: Any) -> None:
    import yaml  # type: ignore[import-untyped]

    printed: dict[str, Any] = {
        "name": "no", "at": "2026-11-22", "text": "tab\t\"quote\" \u00e9\nline", "of": [], "more": {}, "none": None,
        "rows": [{"a": 1, "in": {"b": [1.5, True]}}, [], "12", ["x"]],
    }  # fmt: skip
    for words, command in commands():
        output = next((each for each in command.params if each.name == "output"), None)
        if words[-1] in ("list", "show", "info", "status", "points", "asked", "versions"):
            assert output is not None, words
        if output is not None:
            assert [str(choice) for choice in Form] == ["table", "json", "yaml"]
            assert output.callback is not None or output.type is not None, words
    for form, read in ((Form.YAML, yaml.safe_load), (Form.JSON, json.loads)):
        out._choose(form)
        out.document("thing", printed)
        assert read(capsys.readouterr().out) == {"schema": "twofold-thing-1"} | printed
    for words in (["version"], ["list"], ["status"], ["jobs", "list"], ["agent", "status"], ["doctor"]):
        said = {form: twofold(home, *words, "-o", form) for form in ("json", "yaml")}
        if words == ["list"]:
            assert {done.returncode for done in said.values()} == {0}
        if said["json"].returncode in (0, 3) and words != ["doctor"]:
            assert yaml.safe_load(said["yaml"].stdout) == json.loads(said["json"].stdout), words


@pytest.mark.parametrize(
    "words",
    [words for words, command in commands() if any(each.name == "yes" for each in command.params)],
    ids=" ".join,
)
def test_what_destroys_asks_first(words: list[str]) -> None:
    """It goes through `confirm`, which says what is lost and what is safe, and refuses where nobody can be asked."""
    import inspect

    from twofold.cli import table

    assert table is not None
    command = next(command for found, command in commands() if found == words)
    source = inspect.getsource(inspect.unwrap(command.callback))
    module = inspect.getsource(inspect.getmodule(inspect.unwrap(command.callback)))  # type: ignore[arg-type]
    assert "out.confirm(" in source or ("_confirm(" in source and "out.confirm(" in module), words
    assert "yes=yes" in source or "yes)" in source, words


def test_without_a_terminal_nothing_is_destroyed_without_a_yes(capsys: Any) -> None:
    with pytest.raises(UsageError, match="needs a yes"):
        out.confirm("Destroy it?", lost="all of it.", safe="nothing.", yes=False)
    assert capsys.readouterr().err.splitlines() == ["Lost: all of it.", "Safe: nothing."]


def test_a_grant_ends_at_the_end_of_a_day() -> None:
    from datetime import datetime, timedelta

    from twofold.cli.grants import ends_at

    day = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)  # noqa: DTZ005 - the person's own day
    assert ends_at(0, None) == 0
    assert ends_at(0, day) == int((day + timedelta(days=1)).timestamp())
    assert ends_at(0, day + timedelta(days=1, hours=9)) == int((day + timedelta(days=1, hours=9)).timestamp())
    for days, until in ((1, day), (0, day - timedelta(days=1)), (0, day - timedelta(hours=1))):
        with pytest.raises(UsageError):
            ends_at(days, until)


def test_what_is_left_out_is_within_its_own_bounds() -> None:
    """A default that its own bounds refuse makes a command that cannot be given without that option."""
    bounded = 0
    for words, command in commands():
        for each in command.params:
            if each.min is not None and not each.required and each.default is not None:
                bounded += 1
                assert each.default >= each.min, (words, each.name)
    assert bounded > 5
