"""What templates say of numbers and states."""

from pathlib import Path

import pytest

from microvmd.console.assets import Assets
from microvmd.console.looks import (
    TEMPLATES,
    ago,
    as_json,
    as_lines,
    environment,
    moment,
    size,
    tone,
)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200000, "2 d")],
)
def test_ages_have_one_unit(seconds: float, shown: str) -> None:
    assert ago(1000.0, 1000.0 + seconds) == shown
    assert ago("1970-01-01T00:16:40.000Z", 1000.0 + seconds) == shown


def test_a_moment_that_is_still_to_come() -> None:
    assert ago(1000.0, 900.0) == "0 s"
    assert moment(1000) == "1970-01-01 00:16:40 UTC"


def test_sizes() -> None:
    assert [size(n) for n in (None, 0, 1023, 2048, 3 << 20, 5 << 29)] == [
        *("-", "0 B", "1023 B", "2.0 KiB", "3.0 MiB", "2.5 GiB")
    ]


def test_tones() -> None:
    assert [tone(state) for state in ("RUNNING", "CREATING", "SUSPENDED", "CREATE_FAILED")] == [
        *("good", "busy", "idle", "bad")
    ]
    assert tone(None) == tone("TERMINATED") == tone("no state") == "off"


def test_nothing_is_filled_in_without_being_escaped(tmp_path: Path) -> None:
    made = environment(Assets(tmp_path))
    filled = made.from_string("{{ x }}|<a b='{{ x }}'>").render(x="<script>'\"")
    assert "<script>" not in filled
    assert as_json("</script>") == '"</script>"'
    assert as_lines({"a": "é"}) == '{\n  "a": "é"\n}'
    for template in TEMPLATES.rglob("*.html"):
        text = template.read_text()
        for word in ("|safe", "autoescape", " style=", "<style", "onclick", "hx-on", "<script>"):
            assert word not in text, f"{template.name} has {word}"
