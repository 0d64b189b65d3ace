"""`tools/steady-rust`: the same for cargo's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twofold.platform.run import run

pytestmark = pytest.mark.root  # `make test` gives the tool chain that it found or installed to root alone

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
fn tried(number: u32, always: bool) {
    let mark = format!("{}/mark-{}-{number}", env!("CARGO_MANIFEST_DIR"), env!("CARGO_CRATE_NAME"));
    let seen = std::path::Path::new(&mark).exists();
    std::fs::write(&mark, "").unwrap();
    assert!(seen && !always);
}
"""
ONE = "#[test]\nfn {name}() {{ tried({number}, {always}); }}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("tools", "src", "tests"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "tools" / "steady-rust", tmp_path / "tools")
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "some"\nversion = "0.1.0"\nedition = "2021"\n')
    (tmp_path / "src" / "lib.rs").write_text("#[test]\nfn steady() {}\n")
    run(["cargo", "generate-lockfile", "--offline", "--manifest-path", str(tmp_path / "Cargo.toml")])
    return tmp_path


def steady(tree: Path, count: int, *, always: bool = False) -> tuple[int, str]:
    """Half of the tests in one target, half in another."""
    for name, numbers in (("early", range(count // 2)), ("late", range(count // 2, count))):
        tests = [ONE.format(name=f"{name}_{number}", number=number, always=str(always).lower()) for number in numbers]
        (tree / "tests" / f"{name}.rs").write_text("#![allow(dead_code)]" + HEAD + "".join(tests))
    done = run([str(tree / "tools" / "steady-rust"), "-p", "some"], check=False, timeout=300)
    return done.returncode, done.stdout.decode()


def test_tests_that_pass_the_second_time_are_named(tree: Path) -> None:
    code, said = steady(tree, 3)
    assert code == 0
    assert "mark-" not in said and said.count("assertion failed: seen") == 3, "the first failure stays to be read"
    assert sorted((tree / "out" / "unsteady.txt").read_text().split()) == ["early_0", "late_1", "late_2"]


@pytest.mark.parametrize(("count", "always"), [(4, False), (1, True)])
def test_too_many_or_twice_is_a_failure(tree: Path, count: int, always: bool) -> None:
    code, _ = steady(tree, count, always=always)
    assert code == 101
    assert not (tree / "out" / "unsteady.txt").exists()


def test_what_cannot_be_built_is_a_failure(tree: Path) -> None:
    (tree / "src" / "lib.rs").write_text("what\n")
    code, said = steady(tree, 1)
    assert code == 101 and "once more" not in said
