"""The Dockerfile scanner: what it finds, what must not fool it, and that nothing breaks it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microvmd.build.dockerfile import Dockerfile, expand, scan
from microvmd.build.failure import BuildFailed


def found(text: str) -> Dockerfile:
    return scan(text, "amd64")


def test_stages_and_images() -> None:
    text = """# syntax=docker/dockerfile:1
ARG VERSION=3.11
FROM python:${VERSION}-slim AS build
RUN make
from scratch
COPY --from=build /x /x
COPY --from=busybox:1 /bin/busybox /bin/
RUN --mount=type=bind,from=golang:1.22,source=/x make
FROM build
COPY --chown=1:1 --from=0 /a /b
"""
    dockerfile = found(text)
    assert [stage.image for stage in dockerfile.stages] == ["python:3.11-slim", "scratch", "build"]
    assert [stage.name for stage in dockerfile.stages] == ["build", None, None]
    assert dockerfile.images == ("python:3.11-slim", "busybox:1", "golang:1.22")


def test_text_that_looks_like_from_is_none() -> None:
    text = r"""FROM one
# FROM comment
RUN <<EOF cat <<-'TWO'
FROM heredoc
EOF
	FROM indented
	TWO
RUN echo \
  FROM continued \
  # FROM comment inside

  && FROM blank
COPY <<"conf" /etc/conf
FROM conf
conf
FROM two
"""
    assert found(text).images == ("one", "two")


def test_the_escape_directive() -> None:
    assert found("# escape=`\nFROM one\nRUN a `\nFROM x\nRUN c:\\\nFROM two\n").images == (
        "one",
        "two",
    )


def test_exposed_ports_are_those_of_the_last_stage() -> None:
    huge = "1" * 5000
    text = f"FROM a\nEXPOSE 1\nFROM b\nEXPOSE 8080 53/udp 9000/tcp 70000 000001{huge} x $P\n"
    assert found(text).ports == (8080, 9000)


MEGABYTE = 1 << 20
LONG = {
    "directive": "# a=x" + " " * MEGABYTE + "y\nFROM b\n",
    "directive of nothing": "# a =" + " " * MEGABYTE + "\nFROM b\n",
    "directive of other spaces": "#" + "\x0b" * MEGABYTE + "a=\x0b\nFROM b\n",
    "flags": "FROM " + "--platform=x " * (MEGABYTE // 13) + "b\n",
    "spaces": " " * MEGABYTE + "\nFROM b\n",
    "heredocs": "FROM b\nRUN " + "<<a " * (MEGABYTE // 4) + "\n",
    "heredoc without end": 'FROM b\nRUN <<"' + "a" * MEGABYTE + "\n",
    "continued": "FROM b\nRUN " + "\\\n" * (MEGABYTE // 2) + "x\n",
    "copies": "FROM b\n" + "COPY --from=b x y\n" * (MEGABYTE // 18),
}


@pytest.mark.parametrize("name", LONG)
def test_the_longest_text_is_scanned_in_one_pass(name: str) -> None:
    """What goes over it once for each of its characters takes an hour."""
    assert found(LONG[name]).images == ("b",)


def test_another_platform_is_dropped_with_a_warning() -> None:
    text = (
        "FROM --platform=linux/arm64 \\\n  a AS x\n"
        "FROM --platform=$BUILDPLATFORM b\nFROM --platform=linux/amd64 c\nFROM d\n"
    )
    edits, warnings = found(text).for_architecture("amd64")
    assert edits == {0: "FROM \\", 2: "FROM b", 3: "FROM c"}
    assert warnings == [
        "warning: line 1 asks for linux/arm64; "
        "building for linux/amd64, the architecture of this machine"
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "1"),
        ("${A}x$", "1x$"),
        ("${B:-y}", "y"),
        ("${E:-y}", "y"),
        ("${E-y}", ""),
        ("${A:+z}", "z"),
        ("${B:+z}", ""),
        ("$B", ""),
    ],
)
def test_variables(text: str, value: str) -> None:
    assert expand(text, {"A": "1", "E": ""}) == value


def test_arguments_cannot_grow_without_end() -> None:
    lines = ["ARG A0=xxxxxxxxxxxxxxxx"]
    lines += [f"ARG A{n}=$A{n - 1}$A{n - 1}" for n in range(1, 60)]
    with pytest.raises(BuildFailed, match="4096 characters"):
        found("\n".join([*lines, "FROM $A59"]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no FROM line"),
        ("RUN x\n", "no FROM line"),
        ("FROM --platform=linux/amd64\n", "names no image"),
        ("FROM $NOTHING\n", "names no image"),
        ("FROM a\n" * 65, "more than 64 stages"),
    ],
)
def test_what_cannot_be_built_is_refused(text: str, words: str) -> None:
    with pytest.raises(BuildFailed, match=words) as caught:
        found(text)
    assert caught.value.code == "CONTAINER_BUILD_FAILED"


_WORDS = st.sampled_from(
    ["FROM", "a", "AS", "b", "\n", "\\\n", " ", "<<EOF", "EOF", "RUN", "COPY", "--from=", "ARG",
     "A=${A:-", "}", "$A", "#", "--platform=", "EXPOSE 80", "\t", "\r\n", "`", "--mount=from="]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=300), st.lists(_WORDS, max_size=60).map("".join)))
def test_any_text_is_scanned_or_refused(text: str) -> None:
    try:
        dockerfile = found(text)
    except BuildFailed:
        return
    edits, _ = dockerfile.for_architecture("amd64")
    assert set(edits) <= set(range(len(dockerfile.lines)))
    assert "scratch" not in dockerfile.images


@pytest.mark.parametrize(
    "flags", ["--mount=type=tmpfs,target=/x " * 32 + "--mount=from=other", "--mount=" + "x" * 4096]
)
def test_flags_that_are_not_read_are_refused(flags: str) -> None:
    """The engine reads them all, and would use an image that nobody has looked at."""
    with pytest.raises(BuildFailed, match="more than 32 flags"):
        scan(f"FROM a\nRUN {flags} true\n", "amd64")
