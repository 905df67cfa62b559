"""The model behind one small interface, and one that follows a script.

A model is anything with

    reply(conversation, tools) -> {"text": str, "calls": [{"tool": str, "arguments": dict}, ...]}

`conversation` is a list of turns: {"role": "user", "text"}, {"role": "assistant", "text", "calls"}
and {"role": "tools", "answers"}, one answer for each call of the turn before. `tools` tells what
each tool takes, as JSON Schema. A reply without calls ends the task. The conversation is plain
JSON, so a session can be stored and go on later.
"""

import importlib
import json
from pathlib import Path

TOOLS = {
    "list_files": {
        "description": "List every file below a directory of the repository.",
        "properties": {"path": {"type": "string"}},
    },
    "read_file": {
        "description": "Read a text file of the repository.",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
    },
    "write_file": {
        "description": "Write a text file of the repository, in full.",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    },
    "run": {
        "description": "Run a shell command in the repository, for a limited time.",
        "properties": {"command": {"type": "string"}, "seconds": {"type": "number"}},
        "required": ["command"],
    },
}


class Scripted:
    """Replies from a file, one after another: for tests, and to see the loop without a model."""

    def __init__(self, path):
        self.replies = json.loads(Path(path).read_text())

    def reply(self, conversation, tools):
        said = sum(turn["role"] == "assistant" for turn in conversation)
        if said >= len(self.replies):
            return {"text": "The script ends here.", "calls": []}
        return {"calls": [], **self.replies[said]}


def load(spec):
    """`scripted:FILE`, or `MODULE:CLASS` for a model of your own, made without arguments."""
    module, _, name = spec.partition(":")
    if module == "scripted":
        return Scripted(name)
    return getattr(importlib.import_module(module), name)()
