"""Values made from the shapes of botocore's models: legal ones, and ones with a single fault.

A strategy for every shape, within all of its constraints; a ``Site`` for every place of a request
that has one; and what AWS answers to a request in which exactly that place is wrong. Nothing here
asks the code under test, except for the compiled patterns, which have tests of their own.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape
from hypothesis import strategies as st

from microvmd.api.validate import compile_pattern

Strategy = st.SearchStrategy[Any]
ANY_TEXT = st.characters(exclude_categories=["Cs"])
TYPICAL = 12
ECHO = 8192
INTEGERS = {"integer": 2**31, "long": 2**63}
SCALARS = ("string", "integer", "long", "boolean", "timestamp")
ITEM, KEY, VALUE = "<item>", "<key>", "<value>"


def legal(shape: Shape) -> Strategy:
    """Any value of the shape that breaks no constraint; short ones, and some as long as may be."""
    match shape:
        case StructureShape() if shape.is_tagged_union:
            return st.one_of(
                [st.fixed_dictionaries({n: legal(m)}) for n, m in shape.members.items()]
            )
        case StructureShape():
            return _structures(shape)
        case ListShape():
            least, most = _bounds(shape, 3)
            if shape.serialization.get("location") == "querystring":
                least = 1  # a query cannot tell an empty list from none
            return st.lists(legal(shape.member), min_size=least, max_size=most)
        case MapShape():
            least, most = _bounds(shape, 3)
            return st.dictionaries(
                legal(shape.key), legal(shape.value), min_size=least, max_size=most
            )
        case StringShape() if shape.enum:
            return st.sampled_from(list(shape.enum))
    return _scalars(shape)


def _structures(shape: StructureShape) -> Strategy:
    """Optional members are there or not; which of them decides one draw."""
    return st.fixed_dictionaries(
        {n: legal(m) for n, m in shape.members.items() if n in shape.required_members},
        optional={n: legal(m) for n, m in shape.members.items() if n not in shape.required_members},
    )


def _scalars(shape: Shape) -> Strategy:
    match shape.type_name:
        case "integer" | "long":
            limit = INTEGERS[shape.type_name]
            least, most = shape.metadata.get("min", -limit), shape.metadata.get("max", limit - 1)
            return st.integers(least, most) | st.sampled_from([least, most])
        case "boolean":
            return st.booleans()
        case "timestamp":
            return st.integers(-4_000_000_000_000, 4_000_000_000_000).map(
                lambda ms: datetime.fromtimestamp(ms // 1000, UTC).replace(
                    microsecond=ms % 1000 * 1000
                )
            )
        case "string":
            return _texts(shape)
    raise AssertionError(f"no strategy for {shape.type_name}")


def _texts(shape: Shape) -> Strategy:
    least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 1 << 20)
    pattern = shape.metadata.get("pattern")
    if pattern is None:
        longest = st.builds(lambda c: c * most, ANY_TEXT) if most <= 4096 else st.nothing()
        return st.text(ANY_TEXT, min_size=least, max_size=max(least, min(most, TYPICAL))) | longest
    return matching(pattern).filter(lambda text: least <= len(text) <= most)


def matching(pattern: str) -> Strategy:
    """Texts that a (Java) pattern of the models matches as a whole."""
    if r"\p{L}" in pattern:
        return st.text(
            st.characters(categories=["L", "Z", "N"], include_characters="_.:/=+-@"),
            min_size=1,
            max_size=TYPICAL,
        )
    if r"\p{C}" in pattern:
        return st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=TYPICAL)
    return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True).filter(
        lambda text: compile_pattern(pattern).fullmatch(text) is not None
    )


def _bounds(shape: Shape, typical: int) -> tuple[int, int]:
    least = shape.metadata.get("min", 0)
    return least, max(least, min(typical, shape.metadata.get("max", typical)))


@dataclass(frozen=True)
class Site:
    """One constraint of one place in a request. ``steps`` lead to it from the input shape."""

    steps: tuple[str, ...]
    shape: Shape
    fault: str

    def __str__(self) -> str:
        return f"{'.'.join(self.steps)}:{self.fault}"


def sites(shape: Shape, steps: tuple[str, ...] = ()) -> Iterator[Site]:
    """Every single constraint that a request of this input can break."""
    for fault in _faults(shape):
        yield Site(steps, shape, fault)
    match shape:
        case StructureShape():
            for name, member in shape.members.items():
                # A place in the URI is never empty: another path would be another operation.
                if name in shape.required_members and member.serialization.get("location") != "uri":
                    yield Site((*steps, name), member, "null")
                yield from sites(member, (*steps, name))
        case ListShape():
            if shape.serialization.get("location") != "querystring":
                yield Site((*steps, ITEM), shape.member, "null")
            yield from sites(shape.member, (*steps, ITEM))
        case MapShape():
            yield from sites(shape.key, (*steps, KEY))
            yield Site((*steps, VALUE), shape.value, "null")
            yield from sites(shape.value, (*steps, VALUE))


def _faults(shape: Shape) -> Iterator[str]:
    limits = shape.metadata
    if isinstance(shape, StringShape) and shape.enum:
        yield "enum"
    elif "pattern" in limits:
        yield "pattern"
    whole = shape.type_name in INTEGERS
    if "max" in limits:
        yield "max"
    in_path = shape.serialization.get("location") == "uri"
    if "min" in limits and (whole or (limits["min"] > 0 and not in_path)):
        yield "min"
    if isinstance(shape, StructureShape) and shape.is_tagged_union:
        yield "none"
        if len(shape.members) > 1:
            yield "several"


def faulty(site: Site) -> Strategy:
    """A value that breaks the constraint of a site."""
    shape, limits = site.shape, site.shape.metadata
    whole = shape.type_name in INTEGERS
    match site.fault:
        case "null" | "none":
            return st.just(None if site.fault == "null" else {})
        case "several":
            assert isinstance(shape, StructureShape)
            return st.fixed_dictionaries({n: legal(m) for n, m in shape.members.items()})
        case "enum":
            assert isinstance(shape, StringShape)
            options = shape.enum
            return st.text(ANY_TEXT, min_size=1, max_size=8).filter(lambda t: t not in options)
        case "pattern":
            return st.builds(_spoiled, legal(shape), st.sampled_from(SPOILERS)).filter(
                lambda t: compile_pattern(limits["pattern"]).fullmatch(t) is None
            )
        case "max":
            most = limits["max"]
            return st.just(most + 1) if whole else _of_length(shape, most + 1)
        case "min":
            least = limits["min"]
            return st.just(least - 1) if whole else _of_length(shape, least - 1)
    raise AssertionError(site.fault)


SPOILERS = ("\0", " ", "\n", "*", ":", "é", "\u2028", "\U0001f600")


def _spoiled(text: str, spoiler: str) -> str:
    half = len(text) // 2
    return text[: half - 1 if half else 0] + spoiler + text[half + 1 :]


def _of_length(shape: Shape, length: int) -> Strategy:
    match shape:
        case ListShape():
            return st.lists(legal(shape.member), min_size=1, max_size=1).map(
                lambda items: (items * length)[:length]
            )
        case MapShape():
            return st.builds(
                lambda value: {f"K{number}": value for number in range(length)}, legal(shape.value)
            )
    if length == 0:
        return st.just("")
    return legal(shape).map(lambda text: (text or "a").ljust(length, (text or "a")[-1])[:length])


def planted(shape: Shape, steps: tuple[str, ...], value: Strategy) -> Strategy:
    """Legal values of the shape, but for the one place that ``steps`` lead to."""
    if not steps:
        return value
    match shape:
        case StructureShape() if shape.is_tagged_union:
            return st.fixed_dictionaries(
                {steps[0]: planted(shape.members[steps[0]], steps[1:], value)}
            )
        case StructureShape():
            name = steps[0]
            inner = planted(shape.members[name], steps[1:], value)
            return st.builds(lambda rest, found: {**rest, name: found}, _structures(shape), inner)
        case ListShape():
            return planted(shape.member, steps[1:], value).map(lambda item: [item])
        case MapShape() if steps[0] == KEY:
            return st.builds(lambda key, item: {key: item}, value, legal(shape.value))
        case MapShape():
            return st.builds(
                lambda key, item: {key: item},
                legal(shape.key),
                planted(shape.value, steps[1:], value),
            )
    raise AssertionError(shape)


def refusal(site: Site, shape: Shape, request: Any) -> str:
    """The whole message of AWS for a request that breaks this site and nothing else."""
    path, value, container = "", request, None
    for step in site.steps:
        if container is not None:
            break
        if step in (ITEM, KEY, VALUE):
            assert isinstance(shape, ListShape | MapShape)
            inner = shape.member if isinstance(shape, ListShape) else _part(shape, step)
            if inner.type_name in SCALARS:
                container = shape
                break
            path += ".1.member" if step == ITEM else f".{next(iter(value))}.member"
            value = value[0] if step == ITEM else next(iter(value.values()))
            shape = inner
        else:
            assert isinstance(shape, StructureShape)
            shape = shape.members[step]
            value = value.get(step)
            path += ("." if path else "") + step[:1].lower() + step[1:]
    texts = [_of_container(site, container)] if container is not None else _broken(site, value)
    shown = "" if _secret(container or site.shape) or site.fault in ("none", "several") else None
    if shown is None:
        shown = f" {_echo(value)}"
    if value is None:
        shown = " null"
    noun = "error" if len(texts) == 1 else "errors"
    listed = "; ".join(
        f"Value{shown} at '{path}' failed to satisfy constraint: {text}" for text in texts
    )
    return f"{len(texts)} validation {noun} detected: {listed}"


def _part(shape: MapShape, step: str) -> Shape:
    found: Shape = shape.key if step == KEY else shape.value
    return found


def _of_container(site: Site, container: Shape) -> str:
    """Lists and maps of plain values are told as a whole, with all constraints of the member."""
    words = {ITEM: "Member", KEY: "Map keys", VALUE: "Map value"}[site.steps[-1]]
    texts = [text for _, text in _constraints(site.shape)]
    return f"{words} must satisfy constraint: [{', '.join([*texts, 'Member must not be null'])}]"


def _broken(site: Site, value: Any) -> list[str]:
    match site.fault:
        case "null":
            return ["Member must not be null"]
        case "none" | "several":
            assert isinstance(site.shape, StructureShape)
            names = ", ".join(n[:1].lower() + n[1:] for n in site.shape.members)
            return [f"Exactly one of [{names}] must be set"]
    return [text for holds, text in _constraints(site.shape) if not holds(value)]


def _constraints(shape: Shape) -> list[tuple[Callable[[Any], bool], str]]:
    limits = shape.metadata
    whole = shape.type_name in INTEGERS
    size: Callable[[Any], int] = (lambda v: v) if whole else len
    noun = "value" if whole else "length"
    found: list[tuple[Callable[[Any], bool], str]] = []
    if "max" in limits:
        text = f"Member must have {noun} less than or equal to {limits['max']}"
        found.append((lambda v: size(v) <= limits["max"], text))
    if "min" in limits:
        text = f"Member must have {noun} greater than or equal to {limits['min']}"
        found.append((lambda v: size(v) >= limits["min"], text))
    if "pattern" in limits:
        text = f"Member must satisfy regular expression pattern: {limits['pattern']}"
        pattern = compile_pattern(limits["pattern"])
        found.append((lambda v: pattern.fullmatch(v) is not None, text))
    if isinstance(shape, StringShape) and shape.enum:
        options = shape.enum
        text = f"Member must satisfy enum value set: [{', '.join(options)}]"
        found.append((lambda v: v in options, text))
    return found


def _secret(shape: Shape) -> bool:
    match shape:
        case ListShape():
            return _secret(shape.member)
        case MapShape():
            return _secret(shape.key) or _secret(shape.value)
        case StructureShape():
            return any(map(_secret, shape.members.values()))
    return bool(shape.metadata.get("sensitive"))


def _echo(value: Any) -> str:
    text = _java(value)
    return f"'{text if len(text) <= ECHO else text[:ECHO] + '...'}'"


def _java(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_java, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{key}={_java(item)}' for key, item in value.items())}}}"
        case None:
            return "null"
    return str(value)
