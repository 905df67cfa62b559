"""Runs one script: first its source, then a view a line on stdin and a move a line on stdout.

The script defines `move(view)`. Its names live as long as this process does.
"""

import json
import os
import sys


def main():
    # The script's own prints must not be taken for moves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    names = {"__name__": "script"}
    move = None
    for line in sys.stdin:
        try:
            given = json.loads(line)
            if move is None:
                exec(compile(given, "script", "exec"), names)
                move = names["move"]
                answer = {"move": "stay"}
            else:
                answer = {"move": move(given)}
        except Exception as error:  # whatever a player's code raises is its answer
            answer = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer, default=str) + "\n")


main()
