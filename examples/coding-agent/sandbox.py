"""A MicroVM as the place where the tools run: boto3 for its life, HTTPS for its use."""

import base64
import os
import ssl
from pathlib import Path

import boto3
import httpx

CA_FILE = Path(os.environ.get("MICROVMD_ROOT", "/var/lib/microvmd"), "ca", "ca.pem")
# Suspended after a quarter of an hour without a call, and back with the next one.
IDLE = {
    "maxIdleDurationSeconds": 900,
    "suspendedDurationSeconds": 28800,
    "autoResumeEnabled": True,
}


class Sandbox:
    """Use as a context manager: it keeps one connection, and a token for its port alone."""

    def __init__(self, microvm):
        self.microvm = microvm
        self._aws = boto3.client("lambda-microvms")

    @classmethod
    def run(cls, image):
        """A new MicroVM. Its guest reaches no network: what it needs is in the image."""
        aws = boto3.client("lambda-microvms")
        account = boto3.client("sts").get_caller_identity()["Account"]
        region = aws.meta.region_name
        answer = aws.run_microvm(
            imageIdentifier=f"arn:aws:lambda:{region}:{account}:microvm-image:{image}",
            idlePolicy=IDLE,
            egressNetworkConnectors=[
                f"arn:aws:lambda:{region}:aws:network-connector:aws-network-connector:NO_EGRESS"
            ],
        )
        return cls(answer["microvmId"])

    def __enter__(self):
        name = self.microvm
        endpoint = self._aws.get_microvm(microvmIdentifier=name)["endpoint"]
        token = self._aws.create_microvm_auth_token(
            microvmIdentifier=name, expirationInMinutes=60, allowedPorts=[{"port": 8080}]
        )
        self._http = httpx.Client(
            base_url=f"https://{endpoint}",
            headers=token["authToken"],
            verify=ssl.create_default_context(cafile=str(CA_FILE)),
            timeout=330,
            trust_env=False,
        )
        return self

    def __exit__(self, *_):
        self._http.close()

    def call(self, tool, **arguments):
        """The tool's answer: {"result": ...} or {"error": "..."}, for the model to read."""
        answer = self._http.post(f"/{tool}", json=arguments)
        answer.raise_for_status()
        return answer.json()

    def upload(self, directory):
        for path in sorted(Path(directory).rglob("*")):
            if path.is_file() and not {".git", "__pycache__"} & set(path.parts):
                name = path.relative_to(directory).as_posix()
                self._need("write_file", path=name, content=path.read_text())

    def download(self, directory):
        """Write what the repository is now into a directory; the names come from the guest."""
        top = Path(directory).resolve()
        for name in self._need("list_files"):
            target = (top / name).resolve()
            # What git finds in .git it may run, here and not in the MicroVM.
            if not target.is_relative_to(top) or ".git" in target.relative_to(top).parts:
                raise OSError(f"the guest named a file that is not of the repository: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(base64.b64decode(self._need("fetch_file", path=name)))

    def _need(self, tool, **arguments):
        """The tool's result, where without it there is no going on."""
        answer = self.call(tool, **arguments)
        if "error" in answer:
            raise OSError(f"{tool} {arguments.get('path', '')}: {answer['error']}")
        return answer["result"]

    def suspend(self):
        self._aws.suspend_microvm(microvmIdentifier=self.microvm)
