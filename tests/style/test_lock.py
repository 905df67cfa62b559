"""The lock files: complete for pyproject.toml, by hash, and without the name of any host."""

import json
import re
import tomllib

import pytest

from tests.checkout import CHECKOUT

LOCKS = (
    "requirements.lock",
    "requirements-tests.lock",
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


@pytest.mark.parametrize(
    ("lock", "groups"),
    [("requirements.lock", {"aws", "build"}), ("requirements-tests.lock", {"aws", "build", "dev"})],
)
def test_is_complete(lock: str, groups: set[str]) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wanted = {_name(text) for text in project["project"]["dependencies"]}
    for group in groups:
        wanted |= {_name(text) for text in project["dependency-groups"][group]}
    pinned = {_name(pin) for pin in _pins(lock)}
    assert wanted <= pinned, "scripts/lock.sh was not called after a change of pyproject.toml"


def test_the_product_needs_no_test_tools() -> None:
    """What runs is what is tested: the same versions and files, and none that only tests need."""
    product, everything = _pins("requirements.lock"), _pins("requirements-tests.lock")
    assert product.items() <= everything.items()
    only_tests = {"hypothesis", "mypy", "playwright", "pytest", "ruff", "types-boto3"}
    assert not only_tests & {_name(pin) for pin in product}


def _pins(lock: str) -> dict[str, list[str]]:
    """Hashes by pin."""
    found: dict[str, list[str]] = {}
    pin = ""
    for line in (CHECKOUT / lock).read_text().splitlines():
        if "==" in line:
            pin = line
            found[pin] = []
        else:
            found[pin].append(line.strip(" \\"))
    return found


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
