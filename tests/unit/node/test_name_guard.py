"""The guard's files and what HAProxy says to them; tests/vm/test_names.py shows what it does."""

import subprocess
from pathlib import Path

import pytest

from microvmd.node import name_guard
from microvmd.node.name_guard import NameGuard


def test_without_a_process_nothing_is_allowed(tmp_path: Path) -> None:
    guard = NameGuard(tmp_path / "guard", tmp_path / "namespace", "127.0.0.1")
    assert guard.allowed is None
    guard.end()
    (tmp_path / "guard").mkdir()
    assert guard.allowed is None
    (tmp_path / "guard" / "names.json").write_text('["a.test"]')
    for pid in ("", "x", "4194304", "1"):
        (tmp_path / "guard" / "pid").write_text(pid)
        assert guard.allowed is None
    guard.end()
    assert not (tmp_path / "guard").exists()


def test_names_and_wildcards_are_two_lists() -> None:
    split = name_guard._split({"*.b.test", "c.test", "a.test"})
    assert split == (["a.test", "c.test"], [".b.test"])


def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    guard = NameGuard(tmp_path, tmp_path / "namespace", "127.0.0.1")
    for name, text in (("exact", "a.test\n"), ("below", "")):
        (tmp_path / name).write_text(text)
    (tmp_path / "name_guard.lua").write_text(name_guard._resource("name_guard.lua"))
    (tmp_path / "cfg").write_text(guard._config())
    checked = subprocess.run(
        ["haproxy", "-c", "-f", tmp_path / "cfg"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr.upper()


@pytest.mark.parametrize("users", [("no-such-user", "nobody"), ("nobody",)])
def test_it_runs_as_one_without_rights(
    users: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_guard, "_USERS", users)
    assert name_guard._user() == ("nobody", "nogroup")
