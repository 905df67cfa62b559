"""Runs the cells of a file in a notebook's MicroVM and shows what comes back.

usage: run_cells.py MICROVM FILE [--output NOTEBOOK] [--interrupt-after SECONDS]

Cells begin with a line `# %%`, as editors know it. With --output the cells and their outputs are
written as an .ipynb. A cell that takes longer than --interrupt-after is interrupted.
"""

import argparse
import json
import os
import re
import ssl
import time
from pathlib import Path

import boto3
from websockets.sync.client import connect

CA_FILE = Path(os.environ.get("MICROVMD_ROOT", "/var/lib/microvmd"), "ca", "ca.pem")
OUTPUTS = {"stream", "display_data", "execute_result", "error"}


def open_notebook(microvm):
    """A WebSocket to its kernel: held while it resumes, if it is suspended."""
    aws = boto3.client("lambda-microvms")
    endpoint = aws.get_microvm(microvmIdentifier=microvm)["endpoint"]
    token = aws.create_microvm_auth_token(
        microvmIdentifier=microvm, expirationInMinutes=60, allowedPorts=[{"port": 8080}]
    )
    return connect(
        f"wss://{endpoint}/",
        ssl=ssl.create_default_context(cafile=str(CA_FILE)),
        additional_headers=token["authToken"],
        open_timeout=90,
        max_size=64 << 20,
        proxy=None,
    )


def run(notebook, cell, code, interrupt_after=None):
    """Jupyter's outputs of one cell, as they come."""
    notebook.send(json.dumps({"execute": code, "id": cell}))
    due = None if interrupt_after is None else time.monotonic() + interrupt_after
    while True:
        try:
            left = None if due is None else max(0, due - time.monotonic())
            told = json.loads(notebook.recv(timeout=left))
        except TimeoutError:
            notebook.send(json.dumps({"interrupt": True}))
            due = None
            continue
        if told.get("id") != cell:
            continue
        if told["type"] in OUTPUTS:
            yield {"output_type": told["type"], **told["content"]}
        elif told["content"].get("execution_state") == "idle":
            return


def shown(output):
    """An output as a terminal can show it; the richer forms are named."""
    if output["output_type"] == "stream":
        return output["text"].rstrip("\n")
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    text = output["data"].get("text/plain", "")
    rich = sorted(set(output["data"]) - {"text/plain"})
    return f"{text}   [{', '.join(rich)}]" if rich else text


def as_ipynb(cells):
    """The notebook format, version 4."""
    return {
        "nbformat": 4,
        "nbformat_minor": 4,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {
                "cell_type": "code",
                "execution_count": None,
                "metadata": {},
                "source": code,
                "outputs": [{k: v for k, v in o.items() if k != "transient"} for o in outputs],
            }
            for code, outputs in cells
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("microvm")
    parser.add_argument("file", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--interrupt-after", type=float)
    asked = parser.parse_args()
    done = []
    with open_notebook(asked.microvm) as notebook:
        pieces = re.split(r"^# %%.*\n", asked.file.read_text(), flags=re.MULTILINE)
        for number, code in enumerate(pieces[1:], 1):
            print(f"[{number}] {code.strip().splitlines()[0]}")
            done.append((code.strip(), []))
            for output in run(notebook, f"{asked.file}:{number}", code, asked.interrupt_after):
                done[-1][1].append(output)
                print(shown(output))
    if asked.output:
        asked.output.write_text(json.dumps(as_ipynb(done), indent=1))


if __name__ == "__main__":
    main()
