"""What must be known about a Dockerfile before it is built: images named, stages, platforms, ports.

This is a scanner, not an interpreter: buildah is the judge of what a Dockerfile means. It knows
just enough of the syntax (continuations, heredocs, the escape directive, ARG before FROM) to find
the FROM lines and not to be fooled by text that looks like one.

The text is hostile, and a pattern holds the whole process while it matches: none here may take
longer than the text is long.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from microvmd.build.failure import BuildFailed
from microvmd.build.image_config import port_of

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S.*)")
_INSTRUCTION = re.compile(r"\s*([a-zA-Z]+)\s+(.*)", re.DOTALL)
_HEREDOC = re.compile(r"<<(-?)(?:\"(\w+)\"|'(\w+)'|(\w+))")
_PLATFORM = re.compile(r"--platform=\S+[ \t]*")
_FLAG_FROM = re.compile(r"--from=(\S+)")
_MOUNT_FROM = re.compile(r"--mount=\S*?\bfrom=([^,\s]+)")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-+])([^{}]*))?\})")
_HEREDOC_INSTRUCTIONS = frozenset({"RUN", "COPY", "ADD"})
_MAX_STAGES = 64
_MAX_WORD = 4096
_MAX_FLAGS = 32


@dataclass(frozen=True, slots=True)
class Instruction:
    """One logical line; ``first`` and ``last`` are its line numbers from 0, without heredocs."""

    name: str
    text: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM line, variables of earlier ARG lines already in place."""

    image: str
    name: str | None
    platform: str | None
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The findings. ``images`` are names outside the Dockerfile, in order, without ``scratch``."""

    lines: tuple[str, ...]
    stages: tuple[Stage, ...]
    images: tuple[str, ...]
    ports: tuple[int, ...]

    def for_architecture(self, architecture: str) -> tuple[dict[int, str], list[str]]:
        """Return the lines to replace so that all is built for ``architecture``, and warnings.

        Clients of the real service ask for ``linux/arm64`` always; here the machine's own
        architecture is the only one, so the flag is dropped and the build log says so.
        """
        edits: dict[int, str] = {}
        warnings: list[str] = []
        for stage in self.stages:
            if stage.platform is None:
                continue
            for number in range(stage.first, stage.last + 1):
                line, found = _PLATFORM.subn("", self.lines[number])
                if found:
                    edits[number] = line
            if stage.platform.split("/")[:2] != ["linux", architecture]:
                warnings.append(
                    f"warning: line {stage.first + 1} asks for {stage.platform}; "
                    f"building for linux/{architecture}, the architecture of this machine"
                )
        return edits, warnings


def scan(text: str, architecture: str) -> Dockerfile:
    """Find the stages and images of a Dockerfile. Raises BuildFailed if there is no FROM."""
    lines = tuple(text.replace("\r\n", "\n").split("\n"))
    platform = f"linux/{architecture}"
    arguments = {
        "TARGETPLATFORM": platform,
        "BUILDPLATFORM": platform,
        "TARGETARCH": architecture,
        "BUILDARCH": architecture,
        "TARGETOS": "linux",
        "BUILDOS": "linux",
    }
    stages: list[Stage] = []
    images: dict[str, None] = {}
    ports: dict[int, None] = {}
    for instruction in instructions(lines):
        match instruction.name:
            case "ARG" if not stages:
                _declare(instruction.text, arguments)
            case "FROM":
                stages.append(_stage(instruction, arguments))
                _name_image(stages[-1].image, stages[:-1], images)
                ports.clear()
            case "EXPOSE" if stages:
                ports.update(dict.fromkeys(_exposed(instruction.text)))
            case "COPY" | "RUN" if stages:
                pattern = _FLAG_FROM if instruction.name == "COPY" else _MOUNT_FROM
                for name in pattern.findall(_flags(instruction.text)):
                    _name_image(name, stages, images)
            case _:
                pass
        if len(stages) > _MAX_STAGES:
            raise _refused(f"The Dockerfile has more than {_MAX_STAGES} stages.")
    if not stages:
        raise _refused("The Dockerfile has no FROM line.")
    return Dockerfile(lines, tuple(stages), tuple(images), tuple(ports))


def instructions(lines: tuple[str, ...]) -> Iterator[Instruction]:
    """Join continued lines, skip comments and the bodies of heredocs."""
    escape = _escape_character(lines)
    number = 0
    while number < len(lines):
        first = number
        parts: list[str] = []
        while number < len(lines):
            line = lines[number]
            number += 1
            if line.lstrip().startswith("#") or (parts and not line.strip()):
                continue
            if not line.rstrip().endswith(escape):
                parts.append(line)
                break
            parts.append(line.rstrip()[: -len(escape)])
        found = _INSTRUCTION.fullmatch("".join(parts))
        if not found:
            continue
        name = found[1].upper()
        yield Instruction(name, found[2].strip(), first, number - 1)
        if name in _HEREDOC_INSTRUCTIONS:
            number = _after_heredocs(found[2], lines, number)


def _escape_character(lines: tuple[str, ...]) -> str:
    for line in lines:
        directive = _DIRECTIVE.fullmatch(line.strip())
        if not directive:
            break
        if directive[1].lower() == "escape" and directive[2] in ("`", "\\"):
            return directive[2]
    return "\\"


def _after_heredocs(text: str, lines: tuple[str, ...], number: int) -> int:
    for dash, *words in _HEREDOC.findall(text):
        word = next(filter(None, words))
        while number < len(lines):
            line = lines[number].lstrip("\t") if dash else lines[number]
            number += 1
            if line == word:
                break
    return number


def _flags(text: str) -> str:
    """Return the leading ``--flag`` words: what follows is the user's own command or paths."""
    flags: list[str] = []
    for word in text.split(maxsplit=_MAX_FLAGS + 1)[: _MAX_FLAGS + 1]:
        if not word.startswith("--"):
            break
        flags.append(word)
    if len(flags) > _MAX_FLAGS or any(len(flag) > _MAX_WORD for flag in flags):
        # What is not read here could name an image that the engine then uses.
        raise _refused(
            f"The Dockerfile has an instruction with more than {_MAX_FLAGS} flags, "
            f"or with one over {_MAX_WORD} characters."
        )
    return " ".join(flags)


def _declare(text: str, arguments: dict[str, str]) -> None:
    for word in text.split():
        name, equals, value = word.partition("=")
        if equals:
            arguments[name] = expand(value.strip("\"'"), arguments)


def expand(text: str, arguments: Mapping[str, str]) -> str:
    """Replace ``$V``, ``${V}``, ``${V:-x}`` and ``${V:+x}``; an unknown name becomes nothing."""

    def value(found: re.Match[str]) -> str:
        known = arguments.get(found[1] or found[2])
        operator, other = found[3], found[4] or ""
        is_set = known is not None and (known != "" or operator in (None, "-", "+"))
        if operator in (":+", "+"):
            return other if is_set else ""
        if operator in (":-", "-") and not is_set:
            return other
        return known or ""

    expanded = _VARIABLE.sub(value, text[:_MAX_WORD])
    if len(text) > _MAX_WORD or len(expanded) > _MAX_WORD:
        # Bounded here, for ARG lines that repeat one another grow as a power of two.
        raise _refused(f"The Dockerfile has an image name or ARG over {_MAX_WORD} characters.")
    return expanded


def _stage(instruction: Instruction, arguments: Mapping[str, str]) -> Stage:
    every = instruction.text.split()
    flags = list(itertools.takewhile(lambda word: word.startswith("--"), every))
    words = every[len(flags) :]
    platform = None
    for each in flags:
        flag, _, value = each.partition("=")
        if flag == "--platform":
            platform = expand(value, arguments)
    if not words:
        raise _refused(f"Line {instruction.first + 1} of the Dockerfile names no image.")
    image = expand(words[0].strip("\"'"), arguments)
    name = words[2].lower() if len(words) == 3 and words[1].upper() == "AS" else None
    if not image:
        raise _refused(f"Line {instruction.first + 1} of the Dockerfile names no image.")
    return Stage(image, name, platform, instruction.first, instruction.last)


def _name_image(name: str, stages: list[Stage], images: dict[str, None]) -> None:
    known = {stage.name for stage in stages if stage.name}
    if name != "scratch" and name.lower() not in known and not name.isdigit():
        images[name] = None


def _exposed(text: str) -> Iterator[int]:
    for word in text.split():
        port, _, protocol = word.partition("/")
        number = port_of(port)
        if number is not None and protocol.lower() in ("", "tcp"):
            yield number


def _refused(sentence: str) -> BuildFailed:
    return BuildFailed("CONTAINER_BUILD_FAILED", sentence)
