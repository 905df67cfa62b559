"""The lock files: complete for pyproject.toml, by hash, and without the name of any host."""

import json
import re
import tomllib

import pytest

from tests.checkout import CHECKOUT

LOCKS = (
    "requirements.lock",
    "scripts/uv.lock.txt",
    "scripts/node.lock.txt",
    "scripts/firecracker.lock.txt",
)
JAVASCRIPT = ("tests/clients/javascript", "scripts/console")


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_holds_pins_and_hashes_only(lock: str) -> None:
    for line in (CHECKOUT / lock).read_text().splitlines():
        pin = re.fullmatch(r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==[^ ]+( ; [^\\]+)? \\", line)
        digest = re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        assert pin or digest, f"neither a pin nor a hash: {line}"


def test_is_complete() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wanted = {_name(text) for text in project["project"]["dependencies"]}
    for group in project["dependency-groups"].values():
        wanted |= {_name(text) for text in group}
    pinned = {
        _name(line)
        for line in (CHECKOUT / "requirements.lock").read_text().splitlines()
        if "==" in line
    }
    assert wanted <= pinned, "scripts/lock.sh was not called after a change of pyproject.toml"


@pytest.mark.parametrize("folder", JAVASCRIPT)
def test_javascript_lock_names_no_host(folder: str) -> None:
    wanted = json.loads((CHECKOUT / folder / "package.json").read_text())["dependencies"]
    lock = json.loads((CHECKOUT / folder / "package-lock.json").read_text())["packages"]
    assert lock.pop("")["dependencies"] == wanted, "scripts/lock.sh was not called"
    assert set(wanted) <= {path.removeprefix("node_modules/") for path in lock}
    for path, package in lock.items():
        assert "resolved" not in package, path
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package["integrity"]), path
        assert not package.get("hasInstallScript"), path
