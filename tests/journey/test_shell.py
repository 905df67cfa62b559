"""A person opens a shell: through the endpoint as a browser would, and with `microvmd shell`."""

import contextlib
import json
import os
import select
import signal
import ssl
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions
from botocore.exceptions import ClientError
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.servicelab import REGION, TOKEN_HEADER, Image, Microvm, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

MARK = "lambda-microvms"
MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
INGRESS = [f"{MANAGED}HTTP_INGRESS", f"{MANAGED}SHELL_INGRESS"]
LIMIT = 60
GROWTH = 16 * 1024 * 1024
SHELL = Path(sys.executable).parent / "microvmd"


@pytest.fixture
def microvm(service: Service, notebook: Image) -> Microvm:
    """A MicroVM of an image with bash, into which shells are allowed."""
    return service.run(notebook, ingressNetworkConnectors=INGRESS)


def token(microvm: Microvm) -> str:
    answer = microvm.service.api.create_microvm_shell_auth_token(
        microvmIdentifier=microvm.id, expirationInMinutes=60
    )
    return str(answer["authToken"][TOKEN_HEADER])


@contextlib.contextmanager
def session(microvm: Microvm) -> Iterator[ClientConnection]:
    trust = ssl.create_default_context(cafile=str(microvm.service.ca_file))
    offered = [MARK, f"{MARK}.authentication.{token(microvm)}", f"{MARK}.port.8022"]
    with connect(
        f"wss://{microvm.endpoint}/shell",
        ssl=trust,
        proxy=None,
        open_timeout=LIMIT,
        subprotocols=[Subprotocol(name) for name in offered],
    ) as socket:
        assert socket.subprotocol == MARK
        assert json.loads(socket.recv(LIMIT))["type"] == "session_init"
        yield socket


def says(socket: ClientConnection, text: str) -> str:
    seen = b""
    while text.encode() not in seen:
        data = socket.recv(LIMIT)
        assert isinstance(data, bytes)
        seen += data
    return seen.decode()


def closes(socket: ClientConnection) -> tuple[int, str]:
    with contextlib.suppress(websockets.exceptions.ConnectionClosed):
        while True:
            socket.recv(LIMIT)
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


def test_bash_in_the_applications_container(microvm: Microvm) -> None:
    microvm.execute("open('/tmp/of-the-application', 'w').write('here')")
    with session(microvm) as socket:
        socket.send(b'echo "$0:$TERM:$(id -u):$(cat /tmp/of-the-application)"; stty size\n')
        says(socket, "bash:xterm:0:here\r\n0 0\r\n")
        socket.send('{"type":"resize","cols":120,"rows":40}')
        socket.send("stty size; tr '\\\\0' ' ' < /proc/1/cmdline; echo\n")
        assert "interpreter.py" in says(socket, "40 120\r\n") + says(socket, "\r\n")
        socket.send(b"sleep 1000 &\njobs\n")
        says(socket, "Running")
        socket.send(b"bash -c 'echo asleep; exec sleep 1000'\n")
        says(socket, "asleep\r\n")
        socket.send(b"\x03")
        socket.send(b"echo left with $?\n")
        says(socket, "left with 130\r\n")
        socket.send(b"exit\n")
        assert closes(socket) == (1000, "shell exited")


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_flood_beside_another_session(microvm: Microvm) -> None:
    process = microvm.service.process
    assert process is not None
    with session(microvm) as flooded, session(microvm) as other:
        flooded.send(b"yes flood\n")
        says(flooded, "flood\r\nflood\r\n")
        # Nobody reads the flood now.
        before = resident(process.pid)
        other.send(b"echo undisturbed $((1 + 1))\n")
        says(other, "undisturbed 2\r\n")
        assert microvm.execute("6 * 7") == 42
        assert resident(process.pid) - before < GROWTH
        flooded.send(b"\x03")
        flooded.send(b"echo flood over $((1 + 1))\n")
        says(flooded, "flood over 2\r\n")


def test_a_suspend_ends_it_and_a_connect_resumes(microvm: Microvm) -> None:
    with session(microvm) as socket:
        socket.send(b"cd /tmp; echo ready $((1 + 1))\n")
        says(socket, "ready 2\r\n")
        microvm.service.api.suspend_microvm(microvmIdentifier=microvm.id)
        assert closes(socket) == (1001, "MicroVM suspended")
    microvm.wait("SUSPENDED")
    with session(microvm) as socket:
        socket.send(b"echo awake $((1 + 1))\n")
        says(socket, "awake 2\r\n")
        assert microvm.state == "RUNNING"
        microvm.service.api.terminate_microvm(microvmIdentifier=microvm.id)
        assert closes(socket) == (1001, "MicroVM terminated")


def test_each_token_for_its_own_purpose(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, ingressNetworkConnectors=INGRESS)
    answer = microvm.request(token=token(microvm))
    assert (answer.status_code, answer.content) == (502, b"")
    without = service.run(notebook)
    with pytest.raises(ClientError, match="requires SHELL_INGRESS"):
        token(without)
    only_shell = service.run(notebook, ingressNetworkConnectors=INGRESS[1:])
    answer = only_shell.request()
    assert (answer.status_code, answer.text) == (403, "Token authentication failed")
    nothing = service.run(notebook, ingressNetworkConnectors=[f"{MANAGED}NO_INGRESS"])
    answer = nothing.request()
    assert (answer.status_code, answer.text) == (403, "Token authentication failed")


class Person:
    """Somebody at a terminal in which `microvmd shell` runs."""

    def __init__(self, service: Service, *arguments: str) -> None:
        self._outer, inner = os.openpty()
        termios.tcsetwinsize(inner, (31, 97))
        self.inner = inner
        self.before = termios.tcgetattr(inner)
        self._process = subprocess.Popen(
            [SHELL, *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=service.environment,
            start_new_session=True,
        )
        self._seen = b""

    def types(self, text: str) -> None:
        os.write(self._outer, text.encode())

    def sees(self, text: str) -> None:
        deadline = time.monotonic() + LIMIT
        while text.encode() not in self._seen:
            ready = select.select([self._outer], [], [], max(0, deadline - time.monotonic()))
            assert ready[0], self._seen
            self._seen += os.read(self._outer, 65536)
        self._seen = self._seen.partition(text.encode())[2]

    def resizes(self, rows: int, cols: int) -> None:
        termios.tcsetwinsize(self.inner, (rows, cols))
        self.signals(signal.SIGWINCH)

    def signals(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def leaves(self) -> int:
        """The exit code; the terminal must be as it was."""
        code = self._process.wait(LIMIT)
        assert termios.tcgetattr(self.inner) == self.before
        return code

    def close(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT)
        os.close(self._outer)
        os.close(self.inner)


@contextlib.contextmanager
def person(service: Service, *arguments: str) -> Iterator[Person]:
    somebody = Person(service, *arguments)
    try:
        yield somebody
    finally:
        somebody.close()


def test_the_command_at_a_terminal(microvm: Microvm) -> None:
    with person(microvm.service, "shell", microvm.id) as at:
        at.types("stty size\r")
        at.sees("31 97\r\n")
        at.resizes(50, 132)
        at.types("until stty size | grep '50 132'; do :; done\r")
        at.sees("\r50 132\r\n")
        # In the foreground before it says so: Ctrl-C between two commands would be bash's to take,
        # which then drops the line that is typed next.
        at.types("sh -c 'echo asleep; exec sleep 1000'\r")
        at.sees("asleep\r\n")
        at.types("\x03")
        at.types("echo left with $?\r")
        at.sees("left with 130\r\n")
        at.types("exit 3\r")
        assert at.leaves() == 0
    with person(microvm.service, "shell", microvm.id) as at:
        at.types("echo again $((1 + 1))\r")
        at.sees("again 2\r\n")
        at.types("~.")
        assert at.leaves() == 0
    with person(microvm.service, "shell", microvm.id) as at:
        at.types("echo again $((1 + 1))\r")
        at.sees("again 2\r\n")
        at.signals(signal.SIGTERM)
        assert at.leaves() == 128 + signal.SIGTERM
    with person(microvm.service, "shell", microvm.id) as at:
        at.types("echo again $((1 + 1))\r")
        at.sees("again 2\r\n")
        microvm.suspend()
        at.sees("the shell ended: MicroVM suspended")
        assert at.leaves() == 1


def run(service: Service, *arguments: str, script: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SHELL, *arguments],
        input=script,
        env=service.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_the_command_in_a_pipe(service: Service, notebook: Image) -> None:
    made = run(service, "run", notebook.arn, "--shell")
    assert made.returncode == 0, made.stderr
    microvm_id = made.stdout.split()[0]
    # The last command reads the end of the input; the shell gets one of its own.
    script = "cat > /tmp/copy <<END\nanswer $((6 * 7))\nEND\nsleep 1\ncat /tmp/copy\ncat\n"
    done = run(service, "shell", microvm_id, script=script)
    assert (done.returncode, done.stderr) == (0, "")
    assert "answer 42" in done.stdout


def test_the_command_says_what_is_missing(service: Service, notebook: Image) -> None:
    without = service.run(notebook)
    said = run(service, "shell", without.id)
    assert said.returncode == 1
    assert "microvmd run --shell IMAGE" in said.stderr
    options: dict[str, Any] = {"ingressNetworkConnectors": INGRESS, "idlePolicy": None}
    stays = service.run(notebook, **{key: value for key, value in options.items() if value})
    stays.terminate()
    said = run(service, "shell", stays.id)
    assert said.returncode == 1
    assert "TERMINATED" in said.stderr
