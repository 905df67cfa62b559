"""What is looked for in a file. Python is read as a tree, all else as text; nothing is run.

Each rule gives findings {"rule", "severity", "file", "line", "text"}. To add one, write a function
of the name and the content, or a line in PATTERNS.
"""

import ast
import hashlib
import re
from pathlib import Path

SEVERITIES = ("low", "medium", "high")
LONGEST_TEXT = 160

PATTERNS = [
    ("secret", "high", r"-----BEGIN (?:RSA |EC |OPENSSH |)PRIVATE KEY-----"),
    ("secret", "high", r"\bAKIA[0-9A-Z]{16}\b"),
    ("secret", "high", r"\bgh[pousr]_[A-Za-z0-9]{36}\b"),
    ("secret", "medium", r"(?i)\b(?:password|api_?key|secret)\s*[:=]\s*['\"][^'\"\s]{8,}['\"]"),
    ("reverse-shell", "high", r"/dev/tcp/\d|\bnc\s+-e\s|\bpty\.spawn\("),
    ("exfiltration", "high", r"(?:discord(?:app)?\.com/api/webhooks|api\.telegram\.org/bot)"),
    ("miner", "high", r"stratum\+tcp:|\bxmrig\b"),
    ("hidden-text", "medium", "[\u202a-\u202e\u2066-\u2069]"),
]
COMPILED = [(rule, severity, re.compile(pattern)) for rule, severity, pattern in PATTERNS]

DYNAMIC = {"eval", "exec", "compile", "__import__"}
DECODERS = {"b64decode", "b32decode", "a85decode", "unhexlify", "decompress", "fromhex", "loads"}
COMMANDS = {
    ("os", "system"),
    ("os", "popen"),
    ("subprocess", "run"),
    ("subprocess", "call"),
    ("subprocess", "check_output"),
    ("subprocess", "Popen"),
    ("pickle", "loads"),
    ("marshal", "loads"),
}
NETWORK = {"socket", "urllib", "http", "requests", "httpx", "ftplib"}


def _known_bad():
    lines = Path(__file__).with_name("known-bad.txt").read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


KNOWN_BAD = _known_bad()


def check(name, content):
    """All findings in one file."""
    digest = hashlib.sha256(content).hexdigest()
    if digest in KNOWN_BAD:
        yield _finding("known-bad", "high", name, 1, KNOWN_BAD[digest])
    if b"\0" in content:
        return  # no text: only its digest tells something
    text = content.decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        for rule, severity, pattern in COMPILED:
            if pattern.search(line):
                yield _finding(rule, severity, name, number, line)
    base = name.rsplit("/", 1)[-1]
    if base == "package.json":
        yield from _npm_hooks(name, text)
    if base.endswith(".pth") and re.search(r"^import[ \t]", text, re.MULTILINE):
        yield _finding("install-hook", "high", name, 1, "code that runs whenever Python starts")
    if base.endswith((".py", ".pyw")):
        yield from _python(name, text, installing=base == "setup.py")


def _python(name, text, *, installing):
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield _finding("unreadable", "low", name, 1, f"no Python that this one reads: {error}")
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _call(name, node, installing)
        if installing and isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [item.name for item in node.names]
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used = sorted({module.split(".")[0] for module in modules} & NETWORK)
            if used:
                told = f"setup.py imports {', '.join(used)}"
                yield _finding("install-hook", "high", name, node.lineno, told)


def _call(name, node, installing):
    function = node.func
    if isinstance(function, ast.Name) and function.id in DYNAMIC and not _constant(node.args):
        hidden = any(_called(inner) in DECODERS for inner in ast.walk(node))
        severity = "high" if hidden or installing else "medium"
        told = f"{function.id}() of what is {'decoded' if hidden else 'made'} as it runs"
        yield _finding("dynamic-code", severity, name, node.lineno, told)
    elif _dotted(function) in COMMANDS:
        rule, severity = ("install-hook", "high") if installing else ("command", "low")
        yield _finding(rule, severity, name, node.lineno, f"{'.'.join(_dotted(function))}()")
    if _called(node) == "setup":
        for keyword in node.keywords:
            if keyword.arg == "cmdclass":
                told = "setup(cmdclass=...): code of its own runs at install"
                yield _finding("install-hook", "medium", name, node.lineno, told)


def _dotted(function):
    """Module and name of a call as `os.system`."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.value.id, function.attr
    return None


def _constant(arguments):
    return all(isinstance(argument, ast.Constant) for argument in arguments)


def _called(node):
    function = getattr(node, "func", None)
    return getattr(function, "attr", getattr(function, "id", None))


def _npm_hooks(name, text):
    for hook in re.findall(r'"((?:pre|post)?install|prepare)"\s*:', text):
        yield _finding("install-hook", "medium", name, 1, f"npm runs its {hook} script")


def _finding(rule, severity, name, line, text):
    shown = "".join(char if char.isprintable() else "?" for char in text.strip())
    return {
        "rule": rule,
        "severity": severity,
        "file": name[:LONGEST_TEXT],
        "line": line,
        "text": shown[:LONGEST_TEXT],
    }
