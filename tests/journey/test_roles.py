"""An application gets the credentials of its execution role, and they work where they should.

Guests cannot reach the API of this machine, so the test uses what the guest has read.
"""

import time
from datetime import datetime
from typing import Any

import boto3
import pytest

from tests.servicelab import REGION, STATE_LIMIT, Image, Microvm, Service
from tests.serviceprocess import ACCOUNT, until

pytestmark = [pytest.mark.vm, pytest.mark.journey]

ROLE = f"arn:aws:iam::{ACCOUNT}:role/worker"
READ = """
import json
import urllib.request
def ask(path, method='GET', **headers):
    url = 'http://169.254.169.254/latest/' + path
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ''
def read(path):
    _, token = ask('api/token', 'PUT', **{'X-aws-ec2-metadata-token-ttl-seconds': '21600'})
    return ask('meta-data/' + path, **{'X-aws-ec2-metadata-token': token})
def credentials():
    status, text = read('iam/security-credentials/execution_role')
    return status, json.loads(text) if text else None
"""


def _credentials(microvm: Microvm) -> dict[str, Any]:
    """What the application is told; a service that has just begun may still fetch it."""
    status, found = microvm.execute("credentials()")
    assert status == 200
    assert isinstance(found, dict)
    return found


def _client(service: Service, name: str, found: dict[str, Any]) -> Any:
    session = boto3.Session(
        found["AccessKeyId"], found["SecretAccessKey"], found["Token"], region_name=REGION
    )
    return session.client(name, endpoint_url=service.url)  # type: ignore[call-overload]


def test_credentials_of_the_role_work(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, executionRoleArn=ROLE)
    microvm.execute(READ)
    assert microvm.execute("ask('meta-data/iam/security-credentials/')") == (401, "")
    assert microvm.execute("read('iam/security-credentials/')") == (200, "execution_role")
    assert microvm.execute("read('placement/region')") == (200, REGION)
    found = _credentials(microvm)
    assert (found["Code"], found["Type"]) == ("Success", "AWS-HMAC")
    left = datetime.fromisoformat(found["Expiration"]).timestamp() - time.time()
    assert 3300 < left <= 3600
    caller = _client(service, "sts", found).get_caller_identity()
    assert caller["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/worker/{microvm.id}"
    assert "Buckets" in _client(service, "s3", found).list_buckets()


def test_each_microvm_and_each_resume_has_its_own(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, executionRoleArn=ROLE)
    other = service.run(notebook, executionRoleArn=ROLE)
    for one in (microvm, other):
        one.execute(READ)
    first, second = _credentials(microvm), _credentials(other)
    assert first["AccessKeyId"] != second["AccessKeyId"]
    microvm.suspend()
    microvm.resume()
    assert _credentials(microvm)["AccessKeyId"] not in (first["AccessKeyId"], second["AccessKeyId"])


def test_without_a_role_there_are_none(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook)
    microvm.execute(READ)
    assert microvm.execute("credentials()") == (404, None)
    assert microvm.execute("read('iam/security-credentials/')") == (404, "")


def test_an_adopted_microvm_has_its_role_again(service: Service, notebook: Image) -> None:
    microvm = service.run(notebook, executionRoleArn=ROLE)
    microvm.execute(READ)
    before = _credentials(microvm)
    service.stop()
    service.start()
    microvm.wait("RUNNING")
    # The node is up before the API, which answers for STS here: it asks again.
    until(lambda: microvm.execute("credentials()")[0] == 200 or None, STATE_LIMIT, "credentials")
    assert _credentials(microvm)["AccessKeyId"] != before["AccessKeyId"]


BUILT = b"""
import json
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

def ask(path, method='GET', **headers):
    url = 'http://169.254.169.254/latest/' + path
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return json.dumps({'AccessKeyId': str(error.code)})

def key():
    token = ask('api/token', 'PUT', **{'X-aws-ec2-metadata-token-ttl-seconds': '60'})
    path = 'meta-data/iam/security-credentials/execution_role'
    return json.loads(ask(path, **{'X-aws-ec2-metadata-token': token}))

class Keys(BaseHTTPRequestHandler):
    def do_GET(self):
        body = key()['AccessKeyId'].encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

found = key()
print('built with', found['AccessKeyId'], found.get('Expiration'), flush=True)
HTTPServer(('127.0.0.1', 8080), Keys).serve_forever()
"""
DOCKERFILE = b'FROM microvmd/python:3\nCOPY app.py /\nCMD ["python3", "/app.py"]\n'


def test_a_build_has_its_own_role_and_a_microvm_another(service: Service) -> None:
    begun = time.time()
    image = service.image("keys", {"Dockerfile": DOCKERFILE, "app.py": BUILT})
    name = image.arn.rsplit(":", 1)[1]
    stream = f"build/{image.version}/{service.build(image)['buildId']}"
    (line,) = [
        line
        for line in service.log_lines(f"/aws/lambda-microvms/{name}", stream)
        if line.startswith("built with ")
    ]
    _, _, built, expires = line.split()
    assert built.startswith("ASIA")
    left = datetime.fromisoformat(expires).timestamp() - begun
    assert left <= 900 + time.time() - begun, "what a snapshot may hold lasts no longer"
    with_role = service.run(image, executionRoleArn=ROLE).text()
    assert with_role.startswith("ASIA")
    assert with_role != built
    assert service.run(image).text() == "404"
