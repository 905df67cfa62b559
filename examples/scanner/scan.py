"""Reads an archive from stdin and prints the report: a process that may die of what it reads."""

import hashlib
import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rules
import unpack

MEMORY = 768 << 20
PROCESSOR_SECONDS = 60
MOST_FINDINGS = 500


def main():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    archive = sys.stdin.buffer.read()
    findings, count, size = [], 0, 0
    unpacked = unpack.Unpacked(archive)
    for name, content in unpacked.files():
        count, size = count + 1, size + len(content)
        findings += rules.check(name, content)
    findings.sort(key=lambda found: (-rules.SEVERITIES.index(found["severity"]), found["file"]))
    report = {
        "verdict": verdict(findings, unpacked.refused),
        "archive": {
            "sha256": hashlib.sha256(archive).hexdigest(),
            "bytes": len(archive),
            "files": count,
            "unpacked_bytes": size,
        },
        "refused": unpacked.refused,
        "findings": findings[:MOST_FINDINGS],
        "more_findings": max(0, len(findings) - MOST_FINDINGS),
    }
    print(json.dumps(report))


def verdict(findings, refused):
    severities = {found["severity"] for found in findings}
    if "high" in severities:
        return "dangerous"
    if refused:
        return "refused"
    return "suspicious" if severities else "clean"


if __name__ == "__main__":
    main()
