"""The commands of the documentation, run as a reader would: all of a page, in order, in one shell.

Blocks of the languages in SHELLS are commands. A comment before a block says what else it is:

    <!-- not run: REASON -->   commands that cannot run in a test
    <!-- file: NAME -->        the content of a file that the commands after it use
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.checkout import CHECKOUT
from tests.servicelab import REGION, Image, Service
from tests.serviceprocess import ACCOUNT

SHELLS = ("sh", "bash", "console")
DEFAULT_ROOT = "/var/lib/microvmd"
DEFAULT_URL = "http://127.0.0.1:8480"
LIMIT = 840
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|file): (?P<text>[^\n]*) -->\n)?"
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
# What pages run without building it: that of the README.
_HELLO = re.compile(r"\brun (?:--\w+ )*hello\b|microvm-image:hello\b|/hello\b")
_BUILD = re.compile(r"^microvmd images build examples/([a-z-]+).*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    code: str
    reason: str | None = None
    """Why it is not run."""
    file: str | None = None
    """Where its text belongs, when it is no command."""

    @property
    def runs(self) -> bool:
        return self.language in SHELLS and self.reason is None and self.file is None


def pages() -> list[Path]:
    """What readers follow: every page but the record of changes and decisions."""
    docs = CHECKOUT / "docs"
    found = [*docs.rglob("*.md"), *(CHECKOUT / "examples").rglob("*.md")]
    return [
        CHECKOUT / "README.md",
        *sorted(page for page in found if docs / "decisions" not in page.parents),
    ]


def name(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    for found in _BLOCK.finditer(page.read_text()):
        marked = {found["mark"]: found["text"]}
        yield Block(found["language"], found["code"], marked.get("not run"), marked.get("file"))


def runs(page: Path) -> bool:
    return any(block.runs for block in blocks(page))


def run_page(service: Service, page: Path, directory: Path) -> str:
    """Run a page in a directory that looks like a checkout; what it printed, stdout and stderr.

    An example is built once for all pages of a run: later pages find its image.
    """
    shutil.copytree(CHECKOUT / "examples", directory / "examples")
    (directory / "build").mkdir()
    (directory / ".venv").symlink_to(CHECKOUT / ".venv")
    script = []
    for block in blocks(page):
        if block.runs:
            script.append(block.code)
        elif block.file is not None:
            (directory / block.file).write_text(_here(service, block.code))
    whole = "\n".join(script)
    if _HELLO.search(whole) and "examples/hello" not in whole:
        built(service, "hello")
    text = _BUILD.sub(lambda found: _once(service, found), whole)
    return _run(service, text, directory)


def built(service: Service, example: str) -> Image:
    """The image of an example, built as its README says unless it is there."""
    found = _existing(service, example)
    if found is None:
        text = (CHECKOUT / "examples" / example / "README.md").read_text()
        line = next(found for found in _BUILD.finditer(text) if found[1] == example)
        _run(service, line[0], CHECKOUT)
        found = _existing(service, example)
    assert found is not None, f"{example} has no active version"
    return found


def _run(service: Service, text: str, directory: Path) -> str:
    path = f"{CHECKOUT / '.venv' / 'bin'}:{service.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _here(service, text)],
        cwd=directory,
        env={**service.environment, "AWS_PROFILE": "microvmd", "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, f"{done.stdout}\n{service.said()}"
    return done.stdout


def _here(service: Service, text: str) -> str:
    """The same text for the test's own service."""
    return text.replace(DEFAULT_ROOT, str(service.root)).replace(DEFAULT_URL, service.url)


def _once(service: Service, line: "re.Match[str]") -> str:
    return line[0] if _existing(service, line[1]) is None else f"# built already: {line[1]}"


def _existing(service: Service, example: str) -> Image | None:
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:{example}"
    try:
        found = service.api.get_microvm_image(imageIdentifier=arn)
    except service.api.exceptions.ResourceNotFoundException:
        return None
    version = found.get("latestActiveImageVersion")
    return None if version is None else Image(arn, version)
