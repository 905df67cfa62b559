"""Faults put into real requests: one function for each place, driven by a random generator.

Values that JSON libraries cannot write (NaN, numbers of 5000 digits, keys that repeat) go in as
marks that are replaced in the bytes.
"""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from tests.fuzz.signing import Raw

Mutation = Callable[[Raw, random.Random], None]

_MARK = "@@raw{}@@"
_RAW = (
    "NaN",
    "-NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e-999",
    "9" * 5000,
    "1" + "0" * 400 + ".5",
    "-0",
    "00",
    "+1",
    "0x10",
    "1_000",
    "tru",
    "'x'",
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '"\\x41"',
    '"\x01"',
    "[" * 20_000,
    "[" * 900 + "]" * 900,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"port":1,"port":2}',
    '{"a":1,"a":{"a":[1]}}',
    "",
    ",",
    "undefined",
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    61,
    2**31,
    -(2**31) - 1,
    2**63,
    -(2**63),
    10**30,
    0.5,
    1e308,
    "",
    " ",
    "a" * 300,
    "a" * 9000,
    "\0",
    "\n",
    "\u2028",
    "é",
    "\U0001f600" * 40,
    "\ufffe",
    "'; DROP TABLE images; --",
    "%s%n",
    "../../etc/passwd",
    "arn:aws:lambda:us-east-1:123456789012:microvm-image:",
    "arn:aws:lambda:us-east-1:123456789012:microvm-image:a:b:c",
    "arn::::::::",
    "arn:aws:lambda:us-east-1:999999999999:microvm-image:other",
    "microvm-00000000-0000-0000-0000-000000000000",
    "1.0.0",
    "99999999999999999999.0",
    "-1.0",
    "1.٣",
    "s3://",
    "s3://b",
    [],
    [None],
    [[]],
    ["a"] * 60,
    {},
    {"": ""},
    {"a": None},
    {"uri": None},
    {"allPorts": {}, "port": 1},
)
_SEGMENTS = (
    "",
    ".",
    "..",
    "%2F",
    "%2e%2e",
    "%00",
    "%0a",
    "%0d%0a",
    "%",
    "%zz",
    "%c3%28",
    "%ff",
    "%ed%a0%80",
    "%F0%9F%98%80",
    "a" * 300,
    "a" * 8000,
    "%25",
    "%252F",
    "a/b",
    "a//b",
    "a;b=c",
    "a+b",
    "*",
    "~",
    "{imageIdentifier}",
    "\xe9",
    "\xff",
    "arn%3Aaws%3Alambda",
    "null",
    "microvm-1",
    "1.0",
    "1",
)
_QUERY_VALUES = (
    "",
    "0",
    "-1",
    "51",
    "1.5",
    "1e3",
    "%31",
    "x",
    "9" * 5000,
    "%D9%A3",
    "NaN",
    "true",
    "a=b",
    "==",
    "%",
    "%zz",
    "%00",
    "%ff",
    "%ed%a0%80",
    "+",
    "a%26b",
    "\xe9",
    "#x",
    "?x",
    "AAAA",
    "AAA%3D",
    "null",
    "[]",
    "arn:aws:lambda:us-east-1:123456789012:microvm-image:",
    "GRAVITON",
    "x" * 3000,
)
_QUERY_NAMES = (
    "maxResults",
    "nextToken",
    "nameFilter",
    "MaxItems",
    "Marker",
    "State",
    "tagKeys",
    "imageVersion",
    "imageIdentifier",
    "architecture",
    "",
    "a",
    "%",
    "%zz",
    "\xe9",
)
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "get", "RUN")
_HEADER_VALUES = (
    b"",
    b" ",
    b"0",
    b"-1",
    b"9" * 400,
    b"\xff\xfe",
    b"\xc3\xa9",
    b"application/xml",
    b"application/json; charset=utf-16",
    b"gzip",
    b"chunked",
    b"identity",
    b"a" * 9000,
    b"*/*;q=banana",
    b"bytes=0-1",
    b"websocket",
    b"100-continue",
)
_HEADER_NAMES = (
    b"content-type",
    b"content-encoding",
    b"accept",
    b"accept-encoding",
    b"transfer-encoding",
    b"content-md5",
    b"if-match",
    b"range",
    b"upgrade",
    b"connection",
    b"expect",
    b"x-http-method-override",
    b"x-forwarded-for",
    b"x-amz-target",
    b"x-amz-user-agent",
    b"x-amzn-runtime-recovery-window-in-days",
    b"amz-sdk-invocation-id",
    b"x-" + b"a" * 2000,
)


def mutate(raw: Raw, rng: random.Random) -> None:
    """Put one to three faults into a request that is not signed yet."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = [in_path, in_path, in_query, in_query, in_query, in_headers, in_headers, in_method]
        if raw.body:
            places += [in_document] * 20 + [in_bytes] * 4
        rng.choice(places)(raw, rng)


def in_document(raw: Raw, rng: random.Random) -> None:
    """The JSON of the body: another value, a member less, more, or twice."""
    try:
        document = json.loads(raw.body)
    except (ValueError, RecursionError):
        in_bytes(raw, rng)
        return
    places = list(_places(document))
    if not places:
        raw.body = rng.choice(_RAW).encode("utf-8", "surrogatepass")
        return
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0 | 1 | 2:
            holder[key] = rng.choice(_VALUES)
        case 3 | 4:
            holder[key] = _MARK.format(rng.randrange(len(_RAW)))
        case 5:
            del holder[key]
        case 6:
            holder[key] = [holder[key]] * rng.choice([1, 2, 200])
        case _ if isinstance(holder, dict):
            holder[rng.choice([str(key).upper(), f"{key} ", "", "\0", "__proto__"])] = holder[key]
        case _:
            holder.append(rng.choice(_VALUES))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1 and isinstance(document, dict) and document:
        text = text[:-1] + "," + text[1:]  # every member twice
    for number, literal in enumerate(_RAW):
        text = text.replace(f'"{_MARK.format(number)}"', literal)
    raw.body = text.encode("utf-8", "surrogatepass")


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for key, item in list(items):
        yield node, key
        yield from _places(item)


_ENCODINGS = ("utf-16", "utf-32", "utf-7")
_BROKEN_BYTES: tuple[Callable[[bytes, int, random.Random], bytes], ...] = (
    lambda body, at, rng: body[:at],
    lambda body, at, rng: body[:at] + rng.randbytes(1) + body[at + 1 :],
    lambda body, at, rng: body[:at] + rng.choice([b"\xff", b"\xed\xa0\x80", b"\0"]) + body[at:],
    lambda body, at, rng: b"\xef\xbb\xbf" + body,
    lambda body, at, rng: body.decode("utf-8", "replace").encode(rng.choice(_ENCODINGS)),
    lambda body, at, rng: gzip.compress(body, mtime=0),
    lambda body, at, rng: zlib.compress(body),
    lambda body, at, rng: b"",
    lambda body, at, rng: rng.choice([b" ", b"null", b"[]", b"0", b'"x"', b"{}", b"{} {}", b"{}x"]),
    lambda body, at, rng: body + rng.choice([b"}", b"\0", b" \n\t", b"//", body]),
    lambda body, at, rng: b'{"x":"' + b"a" * rng.choice([70_000, (1 << 20) + 1]) + b'"}',
    lambda body, at, rng: b"[" * rng.choice([1000, 100_000]),
    lambda body, at, rng: b'{"a":' * rng.choice([900, 50_000]) + b"1" + b"}" * 900,
    lambda body, at, rng: rng.randbytes(rng.randrange(1, 200)),
)


def in_bytes(raw: Raw, rng: random.Random) -> None:
    """The bytes of the body, whatever they mean."""
    raw.body = rng.choice(_BROKEN_BYTES)(raw.body, rng.randrange(len(raw.body) + 1), rng)
    if raw.body.startswith(b"\x1f\x8b") and rng.random() < 0.5:
        raw.set(b"content-encoding", b"gzip")


def in_path(raw: Raw, rng: random.Random) -> None:
    """A segment of the path."""
    segments = raw.path.split("/")
    at = rng.randrange(1, len(segments)) if len(segments) > 1 else 0
    match rng.randrange(8):
        case 0 | 1 | 2:
            segments[at] = rng.choice(_SEGMENTS)
        case 3:
            segments.insert(at, rng.choice(_SEGMENTS))
        case 4:
            segments[at] += rng.choice(_SEGMENTS)
        case 5:
            del segments[at]
        case 6:
            segments[at] = segments[at].swapcase()
        case _:
            segments[at] = quote(segments[at], safe="")
    raw.target = raw.with_path("/".join(segments))


def in_query(raw: Raw, rng: random.Random) -> None:
    """A parameter of the query."""
    pairs = [pair for pair in raw.query.split("&") if pair]
    name = rng.choice(_QUERY_NAMES)
    if pairs and rng.random() < 0.5:
        name = rng.choice(pairs).partition("=")[0]
        pairs = [pair for pair in pairs if not pair.startswith(f"{name}=")]
    pair = f"{name}={rng.choice(_QUERY_VALUES)}"
    match rng.randrange(5):
        case 0:
            pairs += [pair] * rng.choice([2, 60])
        case 1:
            pairs.append(name)
        case 2:
            pairs = [*pairs, "", pair, ""]
        case _:
            pairs.append(pair)
    raw.target = f"{raw.path}?{'&'.join(pairs)}"


def in_headers(raw: Raw, rng: random.Random) -> None:
    """A header more, another value, or the same one twice."""
    name = rng.choice([*_HEADER_NAMES, *(name for name, _ in raw.headers)])
    match rng.randrange(4):
        case 0:
            raw.headers += [(name, rng.choice(_HEADER_VALUES))] * rng.choice([1, 2, 50])
        case 1:
            raw.headers = [(k, v) for k, v in raw.headers if k.lower() != name.lower()]
        case _:
            raw.set(name, rng.choice(_HEADER_VALUES))


def in_method(raw: Raw, rng: random.Random) -> None:
    """Another method."""
    raw.method = rng.choice(_METHODS)


_SIGNING_HEADERS: dict[bytes, tuple[bytes, ...]] = {
    b"authorization": (b"", b"Basic eDp5", b"AWS4-HMAC-SHA256", b"AWS4-HMAC-SHA256 a=b", b"\xff"),
    b"x-amz-date": (b"", b"x", b"20260230T000000Z", b"9" * 16, b"\xff"),
    b"x-amz-content-sha256": (b"", b"UNSIGNED-PAYLOAD", b"0" * 64, b"STREAMING-PAYLOAD"),
    b"x-amz-security-token": (b"", b"token", b"\xff", b"t" * 9000),
    b"host": (b"", b"a:b:c", b"\xff", b"lambda.us-east-1.amazonaws.com"),
}


def in_signature(raw: Raw, rng: random.Random) -> None:
    """What a signed request says about who signed it."""
    rng.choice([_wrong_header, _wrong_header, _no_header, _cut, _shuffled, in_presigned])(raw, rng)


def _wrong_header(raw: Raw, rng: random.Random) -> None:
    name = rng.choice(list(_SIGNING_HEADERS))
    value = rng.choice([*_SIGNING_HEADERS[name], raw.get(name)])
    if rng.random() < 0.2:
        raw.headers.append((name, value))
    else:
        raw.set(name, value)


def _no_header(raw: Raw, rng: random.Random) -> None:
    name = rng.choice([b"authorization", b"host", b"x-amz-date"])
    raw.headers = [(key, value) for key, value in raw.headers if key != name]


def _cut(raw: Raw, rng: random.Random) -> None:
    value = raw.get(b"authorization")
    at = rng.randrange(len(value) + 1)
    rest = rng.choice([b"", rng.randbytes(1) + value[at + 1 :], value])
    raw.set(b"authorization", value[:at] + rest)


def _shuffled(raw: Raw, rng: random.Random) -> None:
    parts = raw.get(b"authorization").split(b", ")
    rng.shuffle(parts)
    raw.set(b"authorization", rng.choice([b", ", b",", b" ", b""]).join(parts))


def in_presigned(raw: Raw, rng: random.Random) -> None:
    """A signature in the query: of a wrong form, or wrong."""
    raw.headers = [(key, value) for key, value in raw.headers if key != b"authorization"]
    fields = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": "AKIAMICROVMD%2F20261125%2Fus-east-1%2Flambda%2Faws4_request",
        "X-Amz-Date": "20261125T000000Z",
        "X-Amz-Expires": "300",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": "0" * 64,
    }
    name = rng.choice(list(fields))
    if rng.random() < 0.3:
        del fields[name]
    else:
        fields[name] = rng.choice(_QUERY_VALUES)
    if rng.random() < 0.1:
        fields = {
            "AWSAccessKeyId": "AKIAMICROVMD",
            "Signature": "x",
            "Expires": rng.choice(_QUERY_VALUES),
        }
    pairs = [f"{key}={value}" for key, value in fields.items()]
    raw.target = f"{raw.path}?{'&'.join([pair for pair in [raw.query, *pairs] if pair])}"
