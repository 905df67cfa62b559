"""The documentation tells what there is: links lead somewhere, commands and settings exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ServiceModel
from typer.main import get_command

from microvmd.cli.limits import limits_page
from microvmd.cli.main import app, reference_page
from tests import pages
from tests.checkout import CHECKOUT

PAGES = sorted(
    [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md"), *CHECKOUT.glob("examples/**/*.md")]
)
README_LINES = 75
MOST_NOT_RUN = 13
MOST_OF_A_THEME = 12
KNOWN_HOSTS = {"127.0.0.1", "169.254.169.254", "keepachangelog.com"}


def _name(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def _code(text: str) -> Iterator[str]:
    yield from re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def _verbs() -> set[str]:
    root = get_command(app)
    found = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        found.add(name)
        found |= {f"{name} {inner}" for inner in getattr(command, "commands", {})}
    return found


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_exist(page: Path) -> None:
    verbs = _verbs()
    run_verbs = set(re.findall(r"^ {4}([a-z| ]+)\)", (CHECKOUT / "run").read_text(), re.MULTILINE))
    known = {verb.strip() for group in run_verbs for verb in group.split("|")}
    for code in _code(page.read_text()):
        for first, second in re.findall(r"(?:^|[ /])microvmd ([a-z]+)(?: ([a-z]+))?", code):
            assert first in verbs, f"microvmd {first}"
            if f"{first} list" in verbs:
                assert f"{first} {second}" in verbs, f"microvmd {first} {second}"
        for verb in re.findall(r"\./run ([a-z]+)", code):
            assert verb in known, f"./run {verb}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_names_no_host_and_no_machine(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"https?://([a-z0-9.-]+)", text)) <= KNOWN_HOSTS
    assert str(CHECKOUT) not in text


@pytest.mark.parametrize("page", pages.pages(), ids=_name)
def test_commands_are_in_blocks_that_are_run(page: Path) -> None:
    """`tests/journey/test_pages.py` runs fenced blocks of a shell's language, and no others."""
    other = re.sub(r"^```(?:sh|bash|console)\n.*?^```", "", page.read_text(), flags=re.M | re.S)
    loose = re.findall(r"^(?: {4})?((?:microvmd|aws|curl|\./run) [a-z-].*)$", other, re.MULTILINE)
    assert loose == []


def test_few_commands_cannot_be_run() -> None:
    """Each says why, in the text; they are listed here so that a new one is seen."""
    marked = [
        (_name(page), block.reason)
        for page in pages.pages()
        for block in pages.blocks(page)
        if block.reason is not None
    ]
    assert all(reason for _, reason in marked)
    assert len(marked) <= MOST_NOT_RUN, marked


def test_aws_commands_of_the_readme_exist() -> None:
    model = ServiceModel(Loader().load_service_model("lambda-microvms", "service-2"))
    commands = {xform_name(name).replace("_", "-"): name for name in model.operation_names}
    text = (CHECKOUT / "README.md").read_text().replace("\\\n", " ")
    used = re.findall(r"aws lambda-microvms ([a-z-]+)((?: --[a-z-]+ (?:'[^']*'|\S+))*)", text)
    assert len(used) >= 8
    for command, arguments in used:
        shape = model.operation_model(commands[command]).input_shape
        assert shape is not None
        members = {
            xform_name(name).replace("_", "-").replace("mi-b", "mib") for name in shape.members
        }
        for option in re.findall(r"--([a-z-]+)", arguments):
            assert option in members | {"query", "output"}, f"{command} --{option}"


def test_the_readme_is_one_screen() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= README_LINES


def test_settings_page_is_current() -> None:
    page = (CHECKOUT / "docs" / "reference" / "settings.md").read_text()
    assert page == reference_page() + "\n", (
        "microvmd settings --markdown > docs/reference/settings.md was not called"
    )


def test_limits_page_is_current() -> None:
    page = (CHECKOUT / "docs" / "reference" / "limits.md").read_text()
    assert page == limits_page() + "\n", (
        "microvmd limits --markdown > docs/reference/limits.md was not called"
    )


def test_every_page_is_reachable() -> None:
    index = (CHECKOUT / "docs" / "README.md").read_text()
    for page in (CHECKOUT / "docs").rglob("*.md"):
        relative = page.relative_to(CHECKOUT / "docs").as_posix()
        if relative != "README.md" and not relative.startswith(("decisions/", "lab/")):
            assert f"({relative})" in index, f"docs/README.md does not name {relative}"


def test_decisions_are_numbered() -> None:
    names = sorted(path.name for path in (CHECKOUT / "docs" / "decisions").glob("*.md"))
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name) for name in names)
    numbers = [name[:4] for name in names]
    assert len(set(numbers)) == len(numbers)


def test_every_example_has_what_it_needs() -> None:
    for example in (path for path in (CHECKOUT / "examples").iterdir() if path.is_dir()):
        assert (example / "Dockerfile").is_file(), example
        assert (example / "README.md").is_file(), example
        assert f"[{example.name}]" in (CHECKOUT / "examples" / "README.md").read_text()


def test_changelog_has_unreleased_changes_as_a_list() -> None:
    text = (CHECKOUT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in text
    lines = text.split("### Added", 1)[1].splitlines()
    assert all(re.match(r"(- |  \S|#|\[)", line) for line in lines if line.strip())


def test_changelog_is_told_by_theme() -> None:
    """A diary is not wanted; old lines that a merge brings back are seen."""
    text = (CHECKOUT / "CHANGELOG.md").read_text().split("### Added", 1)[1].split("\n## ")[0]
    before, *themes = re.split(r"^#### ", text, flags=re.MULTILINE)
    assert before.strip() == "", "put the line beneath the heading of its theme"
    for theme in themes:
        name, *lines = [line for line in theme.splitlines() if line.strip()]
        assert 1 <= len(lines) <= MOST_OF_A_THEME, (
            f"{name}: tell it shorter, one line for what one can do, without old lines"
        )
