"""Two tenants with a Python session each: their own state, across a suspend, and nobody else's."""

import os

import pytest

from tests.servicelab import AUTO_RESUME, Image, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]


def test_two_tenants_do_not_see_one_another(service: Service, notebook: Image) -> None:
    alice = service.run(notebook, runHookPayload="alice")
    bob = service.run(notebook, runHookPayload="bob")
    alice.execute("secret = 'of alice'\nopen('secret', 'w').write(secret)")
    bob.execute("greeting = 'hello'")

    seen = alice.request(path="/names").json()
    assert seen["owner"] == "alice"
    assert "secret" in seen["names"]
    assert "greeting" not in seen["names"]
    seen = bob.request(path="/names").json()
    assert seen["owner"] == "bob"
    assert "greeting" in seen["names"]
    assert "secret" not in seen["names"]
    assert bob.execute("import os\nos.path.exists('secret')") is False
    assert alice.vmm != bob.vmm


def test_a_token_opens_its_own_microvm_only(service: Service, notebook: Image) -> None:
    alice, bob = service.run(notebook), service.run(notebook)
    foreign = alice.request("POST", "/execute", token=bob.token, json={"code": "1"})
    assert (foreign.status_code, foreign.text) == (403, "Token authentication failed")


def test_a_request_resumes_and_state_goes_on(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook)
    microvm.execute("total = 41\nopen('kept', 'w').write('on disk')")
    before, token = microvm.vmm, microvm.token
    assert before is not None

    microvm.suspend()
    assert microvm.vmm is None
    assert not os.path.exists(f"/proc/{before}")
    # The token of before the suspend: it opens the endpoint and resumes.
    answer = microvm.request("POST", "/execute", token=token, json={"code": "total + 1"})
    assert answer.json()["result"] == "42"
    assert microvm.execute("open('kept').read()") == "on disk"
    assert microvm.state == "RUNNING"
    assert microvm.vmm not in (None, before)


def test_without_auto_resume_a_suspended_microvm_stays_so(
    service: Service, notebook: Image
) -> None:
    microvm = service.run(notebook, idlePolicy={**AUTO_RESUME, "autoResumeEnabled": False})
    microvm.execute("kept = 1")
    microvm.suspend()
    answer = microvm.request(path="/names")
    assert (answer.status_code, answer.content) == (502, b"")
    assert microvm.state == "SUSPENDED"
    microvm.resume()
    assert microvm.execute("kept") == 1
