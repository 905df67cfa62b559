"""Tokens that are forged, foreign, late or in the wrong place, against a real HAProxy.

Each attack is first shown to reach the application when the rule that stops it is taken out.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from microvmd.control.tokens import TokenIssuer
from microvmd.edge.resolve import Refuse
from tests.edgeguests import WEBSOCKET_PORT, guest
from tests.edgelab import World, world
from tests.edgeweak import instead, weakened, without

pytestmark = pytest.mark.security

MISSING = (403, "Request missing authentication")
FAILED = (403, "Token authentication failed")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
HEADER = "X-aws-proxy-auth"
ANY_PORT = instead("var(txn.claims),json_query('$$.ports')", "str(*)")
EVERYONE = (
    without("Request missing authentication", "Token authentication failed", "502 unless"),
    instead("-port var(txn.port) if http_token", "-port var(txn.port)"),
    instead("var(txn.address) if http_token", "var(txn.address)"),
    instead("lua.resolve if http_token", "lua.resolve if"),
    ANY_PORT,
)
"""Lets in whatever comes, with or without a token, for any port."""


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _header(**fields: object) -> str:
    return _encoded(json.dumps(fields, separators=(",", ":")).encode())


def _sealed(header: str, key: bytes, claims: dict[str, object]) -> str:
    """A JWE as a reader of the standard would open it: the header is authenticated."""
    nonce = secrets.token_bytes(len(b"twelve bytes"))
    sealed = AESGCM(key).encrypt(nonce, json.dumps(claims).encode(), header.encode())
    return ".".join((header, "", _encoded(nonce), _encoded(sealed[:-16]), _encoded(sealed[-16:])))


def _tagged(parts: str, key: bytes) -> str:
    return f"{parts}.{_encoded(hmac.digest(key, parts.encode(), 'sha256')[:16])}"


def _claims(endpoint_id: str) -> dict[str, object]:
    until = int((datetime.now(UTC) + timedelta(minutes=5)).timestamp())
    return {"vm": endpoint_id, "ports": "*", "scope": "http", "vcpus": 1, "exp": until}


async def _ask(
    w: World,
    client: httpx.AsyncClient,
    headers: dict[str, str],
    path: str = "/",
    *,
    host: str | None = None,
) -> tuple[int, str]:
    response = await w.get(client, "vm-a", path, headers, host=host)
    return response.status_code, response.text if response.status_code == 403 else ""


def _changed(token: str, place: int) -> str:
    """Another character there, whose six bits all differ."""
    other = ALPHABET[63 - ALPHABET.index(token[place])]
    return f"{token[:place]}{other}{token[place + 1 :]}"


def test_every_character_of_a_token_counts() -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            token = w.token("vm-a")
            for place, character in enumerate(token):
                bad = token[:place] + token[place + 1 :]
                answers = [await _ask(w, client, {HEADER: bad})]
                if character != ".":
                    answers.append(await _ask(w, client, {HEADER: _changed(token, place)}))
                assert set(answers) == {MISSING}, (place, token)
            assert app.heads == []
            assert (await _ask(w, client, {HEADER: token}))[0] == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("defended", [False, True])
def test_a_token_has_one_spelling(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last character of a tag has bits that mean nothing to who compares its bytes."""
    if not defended:
        weakened(
            monkeypatch,
            instead("bytes(0,16),ub64enc", "bytes(0,16)"),
            instead("field(5,.),secure_memcmp", "field(5,.),ub64dec,secure_memcmp"),
        )

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21"), w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            head, _, nonce, said, tag = w.token("vm-a").split(".")
            for number in range(1, 16):
                other = ALPHABET[ALPHABET.index(tag[-1]) ^ number]
                spelled = f"{head}..{nonce}.{said}.{tag[:-1]}{other}"
                assert (await _ask(w, client, {HEADER: spelled}) == MISSING) is defended
            for spelled in (f"{nonce}.{said}==.{tag}", f"{nonce}.{said}.{tag}=="):
                assert await _ask(w, client, {HEADER: f"{head}..{spelled}"}) == MISSING

    asyncio.run(scenario())


def _forgeries(w: World) -> dict[str, str]:
    """Tokens that a careless reader of JOSE takes, for vm-a."""
    good = w.token("vm-a")
    head, _, nonce, sealed, tag = good.split(".")
    said = json.loads(base64.urlsafe_b64decode(head + "=="))
    key, kid, claims = secrets.token_bytes(32), said["kid"], _claims("vm-a")
    bare = _encoded(json.dumps(claims).encode())
    none = _header(kid=kid, alg="none")
    mac = _header(kid=kid, alg="HS256")
    signed = _encoded(hmac.digest(kid.encode(), f"{mac}.{bare}".encode(), "sha256"))
    jwk = {"kty": "oct", "k": _encoded(key)}
    headers = {
        "own key": _header(**said),
        "own key in the header": _header(**said, jwk=jwk),
        "zip": _header(**said, zip="DEF"),
        "crit": _header(**said, crit=["exp"], exp=1),
        "enc A128GCM": _header(**{**said, "enc": "A128GCM"}),
        "alg A256KW": _header(**{**said, "alg": "A256KW"}),
        "alg PBES2 with many rounds": _header(
            **{**said, "alg": "PBES2-HS256+A128KW"}, p2c=10**9, p2s="AA"
        ),
        "kid of nobody": _header(**{**said, "kid": "nobody"}),
        "kid as a path": _header(**{**said, "kid": "../../../../dev/null"}),
        "kid empty": _header(**{**said, "kid": ""}),
        "kid a list": _header(**{**said, "kid": [kid]}),
        "no kid": _header(alg="dir", enc="A256GCM"),
    }
    return {
        **{name: _sealed(header, key, claims) for name, header in headers.items()},
        "null key": _sealed(head, bytes(32), claims),
        "other claims": f"{head}..{nonce}.{bare}.{tag}",
        "tag of an own key": _tagged(f"{head}..{nonce}.{bare}", key),
        "tag of a null key": _tagged(f"{head}..{nonce}.{bare}", bytes(32)),
        "tag of the kid": _tagged(f"{head}..{nonce}.{bare}", kid.encode()),
        "alg none, three parts": f"{none}.{bare}.",
        "alg none, five parts": f"{none}..{nonce}.{bare}.{tag}",
        "signed with the kid": f"{mac}.{bare}.{signed}",
        "header in another order": (
            f"{_header(enc='A256GCM', alg='dir', kid=kid)}..{nonce}.{sealed}.{tag}"
        ),
        "header with a space": f"{_encoded(json.dumps(said).encode())}..{nonce}.{sealed}.{tag}",
        "an encrypted key": f"{head}.{_encoded(key)}.{nonce}.{sealed}.{tag}",
        "empty parts": "....",
        "no ciphertext": f"{head}..{nonce}..{tag}",
        "empty tag": f"{head}..{nonce}.{sealed}.",
        "short tag": f"{head}..{nonce}.{sealed}.{tag[:6]}",
        "tag of another": f"{head}..{nonce}.{sealed}.{w.token('vm-a').rpartition('.')[2]}",
        "nonce of another": f"{head}..{w.token('vm-a').split('.')[2]}.{sealed}.{tag}",
        "six parts": f"{good}.{tag}",
        "long": f"{head}..{nonce}.{'A' * 12_000}.{tag}",
        "quoted": f'"{good}"',
        "with a scheme": f"Bearer {good}",
        "percent-encoded": good.replace("_", "%5F").replace("-", "%2D") + "%20",
        "with a tail": f"{good};x",
    }


@pytest.mark.parametrize("defended", [False, True])
def test_forged_tokens(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not defended:
        weakened(monkeypatch, *EVERYONE)

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            for name, token in _forgeries(w).items():
                answer = await _ask(w, client, {HEADER: token})
                assert (answer == MISSING) is defended, (name, answer)
            assert (app.heads == []) is defended

    asyncio.run(scenario())


@pytest.mark.parametrize("defended", [False, True])
def test_tokens_of_others(defended: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real tokens: of another MicroVM, of another service with its own keys, expired."""
    if not defended:
        weakened(monkeypatch, *EVERYONE)

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            await w.edge.routes.add("vm-b", "127.0.0.22")
            soon = datetime.now(UTC) + timedelta(minutes=5)
            stranger = TokenIssuer(tmp_path / "keys").issue("vm-a", "*", soon)
            for name, token, refusal in (
                ("another MicroVM", w.token("vm-b"), FAILED),
                ("a name that begins alike", w.token("vm-a.b"), FAILED),
                ("a name in capitals", w.token("VM-A"), FAILED),
                ("nobody", w.token(""), FAILED),
                ("another service", stranger, MISSING),
                ("expired", w.token("vm-a", seconds=-1), FAILED),
            ):
                answer = await _ask(w, client, {HEADER: token})
                assert (answer == refusal) is defended, (name, answer)
            assert (app.heads == []) is defended

    asyncio.run(scenario())


@pytest.mark.parametrize("defended", [False, True])
def test_a_port_that_is_not_in_the_token(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not defended:
        weakened(monkeypatch, ANY_PORT)

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            headers = {HEADER: w.token("vm-a", "1-8079,8081-65535")}
            answer = await _ask(w, client, headers)
            assert (answer == (403, "Access to port denied")) is defended, answer
            for offered in ("lambda-microvms.port.8080", "chat, lambda-microvms.port.8080"):
                way = {**headers, "Sec-WebSocket-Protocol": offered}
                assert ((await _ask(w, client, way))[0] == 403) is defended
            assert (app.heads == []) is defended

    asyncio.run(scenario())


def _elsewhere(token: str) -> dict[str, tuple[str, dict[str, str]]]:
    """A valid token where none belongs: path and headers."""
    return {
        "query": (f"/?X-aws-proxy-auth={token}", {}),
        "path": (f"/{token}", {}),
        "cookie": ("/", {"Cookie": f"X-aws-proxy-auth={token}"}),
        "authorization": ("/", {"Authorization": f"Bearer {token}"}),
        "proxy-authorization": ("/", {"Proxy-Authorization": token}),
        "underscores": ("/", {"X_aws_proxy_auth": token}),
        "forwarded": ("/", {"X-Forwarded-X-aws-proxy-auth": token}),
        "a name with a tail": ("/", {"X-aws-proxy-auth2": token}),
        "subprotocol without its prefix": ("/", {"Sec-WebSocket-Protocol": token}),
        "subprotocol in capitals": (
            "/",
            {"Sec-WebSocket-Protocol": f"LAMBDA-MICROVMS.AUTHENTICATION.{token}"},
        ),
        "extension": ("/", {"Sec-WebSocket-Extensions": f"authentication={token}"}),
    }


@pytest.mark.parametrize("defended", [False, True])
def test_a_token_in_the_wrong_place_is_none(
    defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not defended:
        weakened(monkeypatch, *EVERYONE)

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            places = _elsewhere(w.token("vm-a"))
            for name, (path, headers) in places.items():
                answer = await _ask(w, client, headers, path)
                assert (answer == MISSING) is defended, (name, answer)
            assert len(app.heads) == (0 if defended else len(places))

    asyncio.run(scenario())


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("defended", [False, True])
def test_what_is_ours_never_reaches_the_application(
    http2: bool, defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not defended:
        weakened(monkeypatch, without("del-header ^x[^a-z0-9]aws"))

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, w.client(http2=http2) as client:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            token = w.token("vm-a")
            ours = {
                "x-AWS-Proxy-AUTH": token,
                "X-Aws-Proxy-Port": "8080",
                "X_AWS_PROXY_AUTH": token,
                "x.aws.proxy.auth": token,
                "x-aws-proxy": token,
                "x-aws-proxy-auth-2": token,
            }
            response = await w.get(client, "vm-a", "/", ours)
            assert response.status_code == 200
            assert (token not in app.heads[0].decode()) is defended
            assert (b"proxy" not in app.heads[0].lower()) is defended

    asyncio.run(scenario())


@pytest.mark.parametrize("defended", [False, True])
def test_doubled_tokens(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may choose which of two counts: by headers never, and a header wins over an offer.
    Without the rule one of them counts, and the other stands beside it in whatever reads it."""
    if not defended:
        weakened(monkeypatch, without("req.hdr_cnt(x-aws-proxy-auth)"))

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, guest("127.0.0.22") as other:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            await w.edge.routes.add("vm-b", "127.0.0.22")
            mine, foreign, host = w.token("vm-a"), w.token("vm-b"), w.edge.endpoint("vm-a")
            answers = []
            for lines in (
                f"{HEADER}: {mine}\r\n{HEADER}: {foreign}",
                f"{HEADER}: {foreign}\r\n{HEADER.upper()}: {mine}",
                f"{HEADER}: {mine}\r\n{HEADER.lower()}:",
            ):
                text = f"GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\nConnection: close\r\n\r\n"
                answers.append((await w.raw("vm-a", text.encode())).split(b" ")[1])
            assert (answers == [b"400"] * 3) is defended
            assert (b"200" in answers) is bool(app.heads) is not defended
            offer = f"lambda-microvms.authentication.{foreign}"
            async with w.client() as client:
                for headers, status in (
                    ({HEADER: mine, "Sec-WebSocket-Protocol": offer}, 200),
                    ({HEADER: foreign, "Sec-WebSocket-Protocol": offer}, 403),
                ):
                    assert (await _ask(w, client, headers))[0] == status
            assert foreign.encode() not in b"".join(app.heads)
            assert other.heads == []

    asyncio.run(scenario())


@pytest.mark.parametrize("defended", [False, True])
def test_subprotocols_of_ours_never_reach_the_application(
    defended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same offer beside a token in a header is what it is without the part that reads it."""
    if not defended:
        weakened(monkeypatch, without("lua.subprotocols"))

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21"):
            await w.edge.routes.add("vm-a", "127.0.0.21")
            token = w.token("vm-a")
            known = {HEADER: w.token("vm-a"), "X-aws-proxy-port": str(WEBSOCKET_PORT)}
            offer = [
                "chat",
                f"lambda-microvms.authentication.{token}",
                f"lambda-microvms.authentication.{w.token('vm-b')}",
                "lambda-microvms",
                f"lambda-microvms.port.{WEBSOCKET_PORT}",
                "lambda-microvms.port.22",
            ]
            async with w.websocket("vm-a", offer, None if defended else known) as socket:
                assert socket.subprotocol == "chat"
                seen = str(await socket.recv())
                assert (token not in seen) is defended
                offered = seen.lower().partition("sec-websocket-protocol")[2]
                assert ("lambda-microvms" not in offered) is defended

    asyncio.run(scenario())


def test_a_token_after_its_microvm_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the address of the guest has gone to another MicroVM."""

    async def scenario(reach: Callable[[int], bool]) -> None:
        async with world() as w, w.client() as client:
            token = {HEADER: w.token("vm-a")}
            async with guest("127.0.0.21"):
                await w.edge.routes.add("vm-a", "127.0.0.21")
                assert (await _ask(w, client, token))[0] == 200
                await w.edge.routes.remove("vm-a")
            async with guest("127.0.0.21") as heir:
                await w.edge.routes.add("vm-b", "127.0.0.21")
                w.hold("vm-a").set_result(Refuse())
                assert await _ask(w, client, token) == (502, "")
                # With the heir's name the token is a foreign one.
                answer = await _ask(w, client, token, host=w.edge.endpoint("vm-b"))
                assert reach(answer[0]), answer
                assert reach(200) is bool(heir.heads)

    asyncio.run(scenario(lambda status: status == 403))
    weakened(monkeypatch, without("Token authentication failed"))
    asyncio.run(scenario(lambda status: status == 200))


@pytest.mark.parametrize("defended", [False, True])
def test_names_that_do_not_agree(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the name in the handshake nor a second one in the request changes who answers."""
    if not defended:
        weakened(monkeypatch, without("Token authentication failed"))

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.21") as app, guest("127.0.0.22") as other:
            await w.edge.routes.add("vm-a", "127.0.0.21")
            await w.edge.routes.add("vm-b", "127.0.0.22")
            mine, theirs, token = w.edge.endpoint("vm-a"), w.edge.endpoint("vm-b"), w.token("vm-a")
            suffix = w.settings.suffix
            for target, lines in (
                ("/", f"Host: {theirs}"),
                ("/", f"Host: {mine}\r\nHost: {theirs}"),
                ("/", f"Host: {theirs}\r\nHost: {mine}"),
                ("/", f"Host: {mine}, {theirs}"),
                ("/", f"Host: {mine}@{theirs}"),
                ("/", f"Host: vm-a.{suffix}.:{w.edge.port}"),
                ("/", f"Host: vm-a.{suffix}:{w.edge.port}:1"),
                ("/", f"Host: vm-a.vm-b.{suffix}"),
                ("/", f"Host: vm-a%2e{suffix}"),
                ("/", "Host:"),
                (f"https://{theirs}/", f"Host: {mine}"),
                (f"https://{mine}@{theirs}/", f"Host: {mine}"),
                (f"http://{theirs}/", f"Host: {theirs}"),
                (theirs, f"Host: {mine}"),
            ):
                text = (
                    f"GET {target} HTTP/1.1\r\n{lines}\r\n{HEADER}: {token}\r\n"
                    "Connection: close\r\n\r\n"
                )
                answer = await w.raw("vm-b", text.encode())
                refused = answer.split(b" ")[1] in (b"400", b"403")
                assert refused or not defended, (target, lines, answer)
            # Of these some are no request at all to HAProxy itself; the others are another's.
            assert (other.heads == []) is (app.heads == []) is defended
            if not defended:
                return
            # The name in the handshake is another's, all else is in order.
            text = (
                f"GET / HTTP/1.1\r\nHost: {mine}\r\n{HEADER}: {token}\r\nConnection: close\r\n\r\n"
            )
            assert (await w.raw("vm-b", text.encode())).startswith(b"HTTP/1.1 200 ")
            assert other.heads == []

    asyncio.run(scenario())
