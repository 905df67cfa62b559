"""Every command of the documentation is run, and some of what a page promises is looked for."""

import re
from pathlib import Path

import pytest

from tests import pages
from tests.servicelab import Service

# A page may build an image, and calls a command for each of its lines.
pytestmark = [pytest.mark.vm, pytest.mark.journey, pytest.mark.timeout(900)]

README = "README.md"
GAME = "examples/game-server/README.md"
PROMISED: dict[str, list[str]] = {
    "docs/tutorial/sandbox.md": [
        r"NameError: name 'secret' is not defined",
        r"^Token authentication failed",
        r'"result": "42"',
        r"(?s)gaierror.*gaierror",  # of Alice, who may ask for nothing, and of Bob for another name
        r"pypi\.org",
        r"SUSPENDED",
    ],
    "docs/how-to/accounts.md": [r"AKIA", r"team-a"],
    "docs/how-to/events.md": [r'"detail-type"'],
    "docs/how-to/metrics.md": [r"^microvmd_build_info"],
    "docs/how-to/network-connectors.md": [r"NO_EGRESS", r"MicroVMs keep to it"],
    "docs/how-to/shell.md": [r"PRETTY_NAME="],
    "examples/hello/README.md": [r'"count": ?1\b', r'"count": ?2\b'],
    "examples/interpreter/README.md": [r'"result": "42"', r'"owner": "alice"'],
    "examples/static/README.md": [r"^request \d+ of process"],
    "examples/alpine-like/README.md": [r"^busybox, and nothing else$"],
    "examples/coding-agent/README.md": [
        r"exit 1, \['FAILED \(failures=2\)'\]",
        r"exit 0, \['OK'\]",
        r"exit 0, \['merge mended'\]",  # a file of before the suspend
        r"exit None",  # what never ends
        r"^\+def total\(intervals\):$",
        r"^run \{'command': 'python3 -m unittest'",
    ],
    "examples/notebook/README.md": [
        r"^15 primes$",
        r"\[text/html\]",
        r"^IndexError: list index out of range$",
        r"^KeyboardInterrupt: $",
        r"^counted: True$",
        r"^328$",  # of a name of before the suspend
    ],
    "examples/analytics/README.md": [
        r'\["oak", 20\.25\]',
        r'"columns": \["tall"\], "rows": \[\[3\]\]',  # a temporary table of before the suspend
        r"Cannot access file \\\"/etc/passwd",
        r"Cannot access file \\\"/tmp/out\.csv",
        r"the configuration has been locked",
        r"the query took more than",
        r'"trees"',
    ],
    "examples/scanner/README.md": [
        r"^answered with 200$",
        r'"verdict": "dangerous"',
        r"escape\.txt: leads out of the archive",
        r"bomb\.txt: more than \d+ bytes",
        r"EICAR test file",
        r"exec\(\) of what is decoded",
        r"setup\.py imports socket",
        r"^port 8080 with it: 403$",
    ],
    "examples/game-server/README.md": [
        r"'greedy': [1-9]",
        r"the script of hostile was ended: no answer",
        r"^hostile is out: no answer",
    ],
}


@pytest.mark.parametrize(
    "page",
    [page for page in pages.pages() if pages.runs(page) and pages.name(page) != README],
    ids=pages.name,
)
def test_a_page(service: Service, tmp_path: Path, page: Path) -> None:
    said = pages.run_page(service, page, tmp_path)
    for promise in PROMISED.get(pages.name(page), []):
        assert re.search(promise, said, re.MULTILINE), f"{promise}\n{said}"
    if pages.name(page) == GAME:
        _goes_on(said)


def _goes_on(said: str) -> None:
    """Ticks and scores of a game outlast a suspend."""
    for pattern in (r"^tick (\d+):", r"'greedy': (\d+)"):
        numbers = [int(number) for number in re.findall(pattern, said, re.MULTILINE)]
        assert len(numbers) > 1
        assert numbers == sorted(numbers)
