"""A client that others wrote for Lambda MicroVMs, unmodified: microvm-ctl (`mvm`), from PyPI.

It brings its own, older copy of the service model, its own bootstrap of roles and bucket, its own
hook server in the image, and a caller of endpoints that mints tokens by itself. It is given an AWS
profile and a CA bundle, and nothing else.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servicelab import Service
from tests.serviceprocess import PROFILE

pytestmark = [pytest.mark.vm, pytest.mark.journey]

MVM = Path(sys.executable).parent / "mvm"
LIMIT = 280
NAME = "their-app"
DOCKERFILE = """\
FROM microvmd/python:3
COPY app.py microvm_hooks.py /opt/
EXPOSE 8080
CMD ["python3", "/opt/app.py"]
"""
APP = """\
from microvm_hooks import HookApp

app = HookApp()
seen = {"count": 0, "payload": None}

@app.on_ready
def ready(ctx):
    return True

@app.on_run
def run(ctx):
    seen["payload"] = ctx.get("runHookPayload")

@app.route("POST", "/count")
def count(body, headers):
    seen["count"] += int(body["by"])
    return 200, seen

app.serve(port=8080)
"""


@dataclass
class Mvm:
    """The command, with a profile of the service and its certificates."""

    environment: dict[str, str]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [MVM, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, f"mvm {arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def call(self, microvm_id: str, by: int) -> dict[str, Any]:
        text = self("call", microvm_id, "/count", "-X", "POST", "-d", json.dumps({"by": by}))
        status, _, body = text.partition("\n")
        assert status.startswith("200 "), text
        found: dict[str, Any] = json.loads(body)
        return found

    def state(self, microvm_id: str) -> str:
        return str(json.loads(self("get", microvm_id))["state"])


@pytest.fixture
def mvm(service: Service) -> Mvm:
    environment = {
        **service.environment,
        "AWS_PROFILE": PROFILE,
        "REQUESTS_CA_BUNDLE": str(service.ca_file),
        "COLUMNS": "200",
    }
    bare = Mvm(environment)
    exported = re.findall(r"export (\w+)=(\S+)", bare("bootstrap"))
    assert len(exported) == 3
    return Mvm(environment | dict(exported))


@pytest.mark.timeout(600)
def test_the_walk_of_another_client(mvm: Mvm, service: Service, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "app.py").write_text(APP)
    built = mvm("image", "build", NAME, str(tmp_path), "--memory", "512")
    assert f"{NAME}:1.0" in built
    assert "memory snapshot" in built
    assert re.search(rf"{NAME} .* CREATED .* 1.0 ", mvm("image", "ls"))

    ran = mvm("run", NAME, "--payload", "given", "--wait")
    found = re.search(r"microvm-[0-9a-f-]{36}", ran)
    assert found is not None, ran
    name = found[0]
    assert "RUNNING" in ran
    assert mvm.call(name, 2) == {"count": 2, "payload": "given"}

    mvm("suspend", name)
    service_view = service.api.get_microvm(microvmIdentifier=name)
    assert service_view["state"] in ("SUSPENDING", "SUSPENDED")
    # It resumes by the request, and has kept what it knew.
    assert mvm.call(name, 3) == {"count": 5, "payload": "given"}
    mvm("suspend", name)
    mvm("resume", name)
    assert mvm.call(name, 1)["count"] == 6
    assert mvm.state(name) == "RUNNING"
    assert "phase" in mvm("status", name)

    mvm("scale", NAME, "3", "--wait")
    listed = mvm("ls", "--image", NAME)
    assert listed.count("RUNNING") == 3
    assert "terminated 3 microVMs" in mvm("drain", NAME)
