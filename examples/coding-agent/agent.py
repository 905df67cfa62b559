"""An assistant that works on a repository in a MicroVM of its own.

usage: agent.py [--session FILE] [--repository DIR] [--model SPEC] [--output DIR] TASK

The first task of a session runs a MicroVM and uploads the repository. After each task the MicroVM
is suspended; the next task of the session goes on in it, with the same files and processes.
"""

import argparse
import json
from pathlib import Path

import models
from sandbox import Sandbox

MOST_TURNS = 40


def work(sandbox, model, conversation, task):
    """One task: ask the model, do what it calls for, tell it what came of it, until it is done."""
    conversation.append({"role": "user", "text": task})
    for _ in range(MOST_TURNS):
        reply = model.reply(conversation, models.TOOLS)
        conversation.append({"role": "assistant", **reply})
        if reply["text"]:
            print(f"assistant: {reply['text']}")
        if not reply["calls"]:
            return
        conversation.append({"role": "tools", "answers": [act(sandbox, c) for c in reply["calls"]]})
    print(f"stopped after {MOST_TURNS} turns")


def act(sandbox, call):
    """What a model asks for is data: an unknown tool is an answer like any other."""
    if call["tool"] not in models.TOOLS:
        return {"error": f"tools are {', '.join(models.TOOLS)}"}
    answer = sandbox.call(call["tool"], **call["arguments"])
    print(f"  {call['tool']} {json.dumps(call['arguments'])[:100]}")
    result = answer.get("result")
    if isinstance(result, dict) and "exit" in result:
        print(f"  exit {result['exit']}, {result['output'].strip().splitlines()[-1:]}")
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--session", type=Path, default=Path("session.json"))
    parser.add_argument("--repository", type=Path, help="for the first task of a session")
    parser.add_argument("--model", default="scripted:script.json", help="see models.py")
    parser.add_argument("--output", type=Path, help="where the changed repository is written")
    parser.add_argument("--image", default="coding-agent")
    asked = parser.parse_args()

    model = models.load(asked.model)
    if asked.session.exists():
        session = json.loads(asked.session.read_text())
    else:
        session = {"microvm": Sandbox.run(asked.image).microvm, "conversation": []}
    with Sandbox(session["microvm"]) as sandbox:
        # A request is held until the MicroVM runs, and resumes one that is suspended.
        if not session["conversation"] and asked.repository:
            sandbox.upload(asked.repository)
        try:
            work(sandbox, model, session["conversation"], asked.task)
        finally:
            asked.session.write_text(json.dumps(session, indent=1))
        if asked.output:
            sandbox.download(asked.output)
        sandbox.suspend()
    print(f"{session['microvm']} is suspended; the same --session goes on with it")


if __name__ == "__main__":
    main()
