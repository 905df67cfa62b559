"""Sends scripts to a game and shows it for some ticks.

usage: play.py MICROVM [--ticks N] [SCRIPT ...]

A script's player is named as its file. Without a script it only watches.
"""

import argparse
import json
import os
import ssl
from pathlib import Path

import boto3
from websockets.sync.client import connect

CA_FILE = Path(os.environ.get("MICROVMD_ROOT", "/var/lib/microvmd"), "ca", "ca.pem")


def open_game(microvm):
    """A WebSocket to it: held while it resumes, if it is suspended."""
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
        proxy=None,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("microvm")
    parser.add_argument("scripts", nargs="*", type=Path)
    parser.add_argument("--ticks", type=int, default=20)
    asked = parser.parse_args()
    with open_game(asked.microvm) as game:
        for script in asked.scripts:
            game.send(json.dumps({"join": script.stem, "script": script.read_text()}))
        shown = 0
        while shown < asked.ticks:
            told = json.loads(game.recv(timeout=60))
            if "error" in told:
                print(told["error"])
            elif {script.stem for script in asked.scripts} <= told["robots"].keys():
                scores = {name: robot["score"] for name, robot in told["robots"].items()}
                print(f"tick {told['tick']}: {scores}")
                shown += 1


if __name__ == "__main__":
    main()
