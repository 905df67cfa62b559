"""Keys and tokens stay where they belong: a real service, and a search for every secret it has had.

The search reads what others could get hold of: logs, command lines, environments, error bodies and
all files below the service's root and run directories. For each place a canary that the test puts
there itself is found first, so that finding nothing means something.
"""

import contextlib
import json
import os
import re
import resource
import secrets
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.checkout import CHECKOUT
from tests.otlp import Collector, attributes, collector
from tests.servicelab import AUTO_RESUME, REGION, TOKEN_HEADER, Microvm, Service, running_service
from tests.serviceprocess import ACCOUNT

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root]

SERVER = CHECKOUT / "examples" / "static" / "server.c"
DOCKERFILE = b'FROM scratch\nCOPY server /server\nEXPOSE 8080\nENTRYPOINT ["/server"]\n'
# The application answers every path, and so every hook.
HOOKS = {
    "port": 8080,
    "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 60},
    "microvmHooks": {"run": "ENABLED", "runTimeoutInSeconds": 60},
}
ROLE = f"arn:aws:iam::{ACCOUNT}:role/app"
EVERYTHING = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
    }
)
LARGEST = 64 << 20
CORE_LIMIT = re.compile(r"^Max core file size\s+(\S+)\s+(\S+)", re.MULTILINE)


@dataclass
class Vault:
    """Every secret that the service has made or was given, by what it is."""

    service: Service
    traces: Collector
    secrets: dict[str, str] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    """Of those, what lies encrypted in the store only."""
    bodies: list[str] = field(default_factory=list)
    """Error answers as they came."""
    microvm: Microvm | None = None

    def keep(self, name: str, value: str, *, sealed: bool = False) -> str:
        assert len(value) >= 16, f"{name} is too short to be searched for"
        self.secrets[name] = value
        if sealed:
            self.sealed.add(name)
        return value

    def found_in(self, text: bytes) -> list[str]:
        return [name for name, value in self.secrets.items() if value.encode() in text]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One of the service's own endpoints, as the operator."""
        keys = self.service.session.get_credentials()
        assert keys is not None
        answer = signed(self.service, keys.get_frozen_credentials(), method, path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()


def signed(service: Service, keys: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    content = b"" if body is None else json.dumps(body).encode()
    request = AWSRequest(method, f"{service.url}{path}", data=content)
    SigV4Auth(keys, "lambda", REGION).add_auth(request)
    headers = dict(request.headers.items())
    with httpx.Client(timeout=60, trust_env=False) as client:
        return client.request(method, str(request.url), headers=headers, content=content)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, residents: list[object]) -> Iterator[Vault]:
    """A service that has made keys, sessions and tokens, and runs a MicroVM that knows secrets."""
    program = tmp_path_factory.mktemp("server") / "server"
    subprocess.run(["gcc", "-static", "-O2", "-o", str(program), str(SERVER)], check=True)
    with (
        cores_allowed(),
        collector() as traces,
        running_service({"TRACES_ENDPOINT": traces.url}) as service,
    ):
        residents.append(service)
        made = Vault(service, traces)
        keys = service.session.get_credentials()
        assert keys is not None
        made.keep("operator's key", str(keys.secret_key))
        _accounts(made)
        _sessions(made)
        _microvm(made, program.read_bytes())
        _errors(made)
        yield made
        residents.remove(service)


@contextlib.contextmanager
def cores_allowed() -> Iterator[None]:
    """What the service starts with: a limit that it has to lower by itself."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def _accounts(vault: Vault) -> None:
    base = "/microvmd/v1/accounts"
    account = vault.ask("POST", base, {"name": "team"})
    vault.keep("key of an account", account["key"]["secret"], sealed=True)
    users = f"{base}/{ACCOUNT}/users"
    vault.ask("POST", users, {"name": "eve"})
    vault.ask("PUT", f"{users}/eve/policies/all", {"document": EVERYTHING})
    key = vault.ask("POST", f"{base}/{ACCOUNT}/keys", {"user": "eve"})["key"]
    vault.keep("key of a user", key["secret"], sealed=True)
    rotated = vault.ask("POST", f"{base}/{ACCOUNT}/keys/{key['access_key']}/rotate", {})
    vault.keep("rotated key", rotated["key"]["secret"], sealed=True)


def _sessions(vault: Vault) -> None:
    iam, sts = vault.service.client("iam"), vault.service.client("sts")
    iam.create_role(RoleName="app", AssumeRolePolicyDocument=EVERYTHING)
    iam.put_role_policy(RoleName="app", PolicyName="all", PolicyDocument=EVERYTHING)
    for name, answer in (
        ("role", sts.assume_role(RoleArn=ROLE, RoleSessionName="test")),
        ("session", sts.get_session_token()),
    ):
        found = answer["Credentials"]
        vault.keep(f"secret of a {name}", found["SecretAccessKey"], sealed=True)
        vault.keep(f"token of a {name}", found["SessionToken"], sealed=True)


def _microvm(vault: Vault, program: bytes) -> None:
    service = vault.service
    environment = vault.keep("environment variable", f"db-password-{secrets.token_hex(16)}")
    payload = vault.keep("run hook payload", f"payload-{secrets.token_hex(16)}")
    key = service.client("kms").create_key()["KeyMetadata"]["Arn"]
    image = service.image(
        "secrets",
        {"Dockerfile": DOCKERFILE, "server": program},
        environmentVariables={"DB_PASSWORD": environment},
        kmsKeyIdentifier=key,
        hooks=HOOKS,
    )
    managed = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
    microvm = service.run(
        image,
        executionRoleArn=ROLE,
        runHookPayload=payload,
        idlePolicy=AUTO_RESUME,
        ingressNetworkConnectors=[f"{managed}HTTP_INGRESS", f"{managed}SHELL_INGRESS"],
    )
    vault.keep("endpoint token", microvm.token)
    shell = service.api.create_microvm_shell_auth_token(
        microvmIdentifier=microvm.id, expirationInMinutes=5
    )
    vault.keep("shell token", shell["authToken"][TOKEN_HEADER])
    microvm.request()
    vault.microvm = microvm


def _errors(vault: Vault) -> None:
    """Every way of being refused that has a secret in its request."""
    service = vault.service
    token, session = vault.secrets["endpoint token"], vault.secrets["token of a role"]
    assert vault.microvm is not None
    for answer in (
        vault.microvm.request(token=vault.secrets["shell token"]),
        vault.microvm.request(token=f"{token}x"),
        vault.microvm.request(port=1, token=token),
        vault.microvm.request(path=f"/%00{token}", token=""),
    ):
        vault.bodies.append(answer.text)
    wrong = Credentials("AKIANOBODY", vault.secrets["key of a user"], session)
    mine = service.session.get_credentials()
    assert mine is not None
    mixed = Credentials(mine.access_key, vault.secrets["operator's key"], session)
    for keys in (wrong, mixed):
        for path in ("/2025-09-09/microvms", "/microvmd/v1/accounts", f"/{token[:40]}"):
            answer = signed(service, keys, "POST", path, {"runHookPayload": token})
            assert answer.status_code >= 400
            vault.bodies.append(answer.text)
    for call, arguments in (
        (service.api.list_microvms, {"nextToken": "x" * 40}),
        (service.api.get_microvm, {"microvmIdentifier": "microvm-none"}),
        (service.client("sts").assume_role, {"RoleArn": f"{ROLE}s/none/", "RoleSessionName": "xx"}),
    ):
        with pytest.raises(ClientError) as caught:
            call(**arguments)
        vault.bodies.append(json.dumps(caught.value.response, default=str))


def logs_of(service: Service) -> Iterator[Path]:
    """The service's own log, those of what it starts, and the store of its guests' output."""
    yield service.log
    yield from service.directory.rglob("*.log")
    yield from (path for path in (service.root / "logs").rglob("*") if path.is_file())


def processes_of(service: Service) -> Mapping[int, str]:
    assert service.process is not None
    return {service.process.pid: "serve", **service.processes()}


def test_no_log_has_a_secret(vault: Vault) -> None:
    """Attack: read the logs, which are kept for weeks, copied to other machines and shown to
    colleagues. Defence: secrets are never given to a logger, and tracebacks come without locals."""
    canary = vault.service.directory / "canary.log"
    canary.write_text(f"opened {vault.secrets['endpoint token']}\n")
    read = {path: path.read_bytes() for path in logs_of(vault.service)}
    canary.unlink()
    assert vault.found_in(read.pop(canary)) == ["endpoint token"]
    assert len(read[vault.service.log]) > 1000
    assert {
        path.name: found for path, text in read.items() if (found := vault.found_in(text))
    } == {}


def test_no_record_of_calls_has_a_secret(vault: Vault) -> None:
    """Attack: read the audit log, which auditors and log collectors get. Defence: what the models
    mark as sensitive, and answers that make keys, are told without it."""
    directory = vault.service.root / "audit"
    text = b"".join(path.read_bytes() for path in sorted(directory.iterdir()))
    told = [json.loads(line) for line in text.splitlines()]
    names = {one["eventName"] for one in told}
    assert names >= {"RunMicrovm", "CreateMicrovmImage", "CreateMicrovmAuthToken", "AssumeRole"}
    assert names >= {"CreateAccessKey", "RotateAccessKey", "CreateAccount", "PutUserPolicy"}
    assert any(one["userIdentity"]["type"] == "Unknown" for one in told)
    assert vault.found_in(text) == []
    canary = vault.secrets["run hook payload"].encode()
    assert vault.found_in(text + canary) == ["run hook payload"]


def test_a_run_is_one_trace_without_secrets(vault: Vault) -> None:
    """Attack: read what goes to a collector of traces. Defence: spans have names, times and ids."""
    steps = ("RunMicrovm", "decide RunMicrovm", "node starts it", "vmm", "first answer")
    spans = vault.traces.wait_for(*steps)
    run = spans["RunMicrovm"]
    names = {one.name for one in vault.traces.of_trace(run.trace_id)}
    assert names >= {"network", "guest.restored", "guest.run_hook", "report Started"}
    node = spans["node starts it"]
    assert run.start_time_unix_nano <= node.start_time_unix_nano < node.end_time_unix_nano
    first = spans["first answer"]
    assert first.trace_id == run.trace_id
    assert node.start_time_unix_nano < first.end_time_unix_nano
    assert first.start_time_unix_nano <= first.end_time_unix_nano
    request_id = attributes(run)["aws.request_id"]
    log = vault.service.log.read_text()
    logged = [json.loads(line) for line in log.splitlines() if request_id in line]
    assert vault.microvm is not None
    assert {"answered", "microvm"} <= {line["event"] for line in logged}
    assert vault.microvm.id in {line.get("microvm_id") for line in logged}
    assert [found for body in vault.traces.bodies if (found := vault.found_in(body))] == []


def test_no_process_shows_a_secret(vault: Vault) -> None:
    """Attack: `ps` by anybody on the machine, `/proc/*/environ` by whoever runs as the same user.
    Defence: secrets reach HAProxy, the VMM, builds and local AWS by files, sockets and memory."""
    token = vault.secrets["endpoint token"]
    canary = subprocess.Popen(["sleep", "60"], env={"TOKEN": token})
    try:
        assert vault.found_in(shown_by(canary.pid)) == ["endpoint token"]
    finally:
        canary.kill()
        canary.wait()
    seen = processes_of(vault.service)
    assert vault.service.haproxy()
    assert vault.service.local_aws()
    assert vault.service.vmms()
    assert {
        line: found for pid, line in seen.items() if (found := vault.found_in(shown_by(pid)))
    } == {}


def shown_by(pid: int) -> bytes:
    """Command line and environment; empty once it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        entry = Path(f"/proc/{pid}")
        return (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
    return b""


def test_no_error_has_a_secret(vault: Vault) -> None:
    """Attack: an error page in a ticket or in a browser's history. Defence: texts name things and
    never what proves a right to them."""
    assert len(vault.bodies) > 10
    assert vault.found_in(vault.secrets["rotated key"].encode()) == ["rotated key"]
    assert [found for body in vault.bodies if (found := vault.found_in(body.encode()))] == []


def test_keys_and_sessions_are_in_no_file(vault: Vault) -> None:
    """Attack: a backup of the store without its master key. Defence: they are sealed with it."""
    plain = vault.service.root / "canary"
    plain.write_text(vault.secrets["rotated key"])
    places = holders(vault)
    plain.unlink()
    assert places.pop(plain) == ["rotated key"]
    assert {
        str(path): sorted(vault.sealed & set(found))
        for path, found in places.items()
        if vault.sealed & set(found)
    } == {}


def test_who_may_read_a_secret(vault: Vault) -> None:
    """Attack: another user of the machine reads files. Defence: whatever holds a secret is 0600, or
    lies below a directory of 0700."""
    loose = vault.service.root / "canary"
    loose.write_text(vault.secrets["rotated key"])
    loose.chmod(0o644)
    open_root = stat.S_IMODE(vault.service.root.stat().st_mode) & 0o077
    try:
        assert open_root == 0 or readable_by_others(loose, vault.service)
    finally:
        loose.unlink()
    files = [*holders(vault), *(vault.service.root / "keys").iterdir()]
    files += [vault.service.root / "ca" / "ca.key", vault.service.root / "state.db"]
    assert len(files) > 5
    shown = [
        str(path) for path in files if path.exists() and readable_by_others(path, vault.service)
    ]
    assert shown == []
    assert stat.S_IMODE((vault.service.root / "keys").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (vault.service.root / "keys").iterdir()}
    assert modes == {0o600}


def holders(vault: Vault) -> dict[Path, list[str]]:
    """Files below root and run that have a secret in them, and which."""
    found = {}
    for place in (vault.service.root, vault.service.place.run):
        for path in place.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                # Empty ones are no files at all: namespaces, say, which cannot be read.
                if path.is_file() and not path.is_symlink() and 0 < path.stat().st_size < LARGEST:
                    names = vault.found_in(path.read_bytes())
                    if names:
                        found[path] = names
    return found


def readable_by_others(path: Path, service: Service) -> bool:
    """Whether a user who is neither root nor ours gets to the file and into it."""
    if not path.stat().st_mode & 0o044:
        return False
    tops = (service.root, service.place.run)
    parents = [p for p in path.parents if any(p == top or top in p.parents for top in tops)]
    return all(parent.stat().st_mode & 0o011 for parent in parents)


def test_no_process_leaves_a_core(vault: Vault) -> None:
    """Attack: crash a process and read its memory from the dump. Defence: a limit of 0 on cores for
    all that the service starts; the service itself and what changes its user are not dumpable."""
    limits = {}
    for pid, line in processes_of(vault.service).items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found = CORE_LIMIT.search(Path(f"/proc/{pid}/limits").read_text())
            assert found is not None
            limits[line[:120]] = found.groups()
    assert {line: limit for line, limit in limits.items() if limit != ("0", "0")} == {}
    lifted = CORE_LIMIT.search(Path("/proc/self/limits").read_text())
    assert lifted is not None
    assert lifted.groups() == ("unlimited", "unlimited"), "what the service was started with"


def test_the_service_ends_without_a_dump(vault: Vault) -> None:
    """Attack: as before, with the limit on cores lifted by an operator who debugs. Defence: the
    process says of itself that it is not dumpable. Last, since it kills the service."""
    process = vault.service.process
    assert process is not None
    with tempfile.TemporaryDirectory() as directory:
        canary = subprocess.Popen(["sleep", "60"], cwd=directory)
        assert dumped(canary), "this kernel dumps nothing, so nothing can be shown"
    assert not dumped(process)
    vault.service.process = None
    vault.service.start()


def dumped(process: "subprocess.Popen[bytes]") -> bool:
    """Crash a process, whose limit is lifted if we may; whether the kernel has dumped it."""
    subprocess.run(["prlimit", f"--pid={process.pid}", "--core=unlimited"], check=False)
    process.send_signal(signal.SIGABRT)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait()
    assert ended is not None
    return ended.si_code == os.CLD_DUMPED
