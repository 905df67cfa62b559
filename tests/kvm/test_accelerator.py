"""The service finds KVM by itself where it works: a probe guest boots under it."""

import json

import pytest

from tests.kvm.conftest import KvmHosts
from tests.kvmhost.machine import Done, KvmHost
from tests.kvmhost.root import INSIDE
from tests.kvmhost.sending import ENVIRONMENT

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

LIMIT = 240.0
# A processor that is emulated takes its time.
PATIENT = {"MICROVMD_VMM_PROBE_SECONDS": "120"}


def test_doctor_finds_kvm(kvm_hosts: KvmHosts) -> None:
    done = kvm_hosts.do(_diagnosed)
    found = json.loads(done.output)["accelerator"]
    assert (found["state"], found["mend"]) == ("ok", ""), found
    assert found["why"].startswith("KVM: a guest booted in ")


def _diagnosed(host: KvmHost) -> Done:
    return host.run(
        ["microvmd", "doctor", "--json"], env={**ENVIRONMENT, **PATIENT}, cwd=INSIDE, limit=LIMIT
    )
