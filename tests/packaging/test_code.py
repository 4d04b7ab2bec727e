"""No code of the package, its build or its tools runs text, pickles or shell commands."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fastloss", "triton_kernels", "csrc", "bench", "examples")
FILES = sorted({ROOT / "setup.py"}.union(*(ROOT.glob(f"{folder}/**/*.py") for folder in FOLDERS)))
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
# A name written in the source, or one inside a package of ours: never any other text.
OWN_MODULE = re.compile(r"'[\w.]+'|f'(\{__name__\}|fastloss|bench)\.[^']*'")
MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}


def violations(source: str) -> list[str]:
    """What the source does that it must not, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: {a.name}" for a in node.names if a.name in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            found.append(f"{node.lineno}: {node.module}")
        elif isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            shell = keywords.get("shell", ast.Constant(False))
            unsafe = name in CALLS or ast.unparse(shell) != "False"
            unsafe |= name == "torch.load" and "weights_only" not in keywords
            if name.split(".")[-1] == "import_module":
                unsafe |= not OWN_MODULE.fullmatch(ast.unparse(node.args[0]))
            if unsafe:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_runs_no_foreign_code(path):
    assert violations(path.read_text()) == []


@pytest.mark.parametrize(
    "bad",
    [
        "eval(text)",
        "import os; os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "import pickle",
        "from pickle import loads",
        "importlib.import_module(name)",
        "importlib.import_module(f'{package}.{name}')",
        "torch.load(path)",
    ],
)
def test_scan_finds(bad):
    assert violations(bad)


def test_scan_allows_fixed_imports_and_argument_lists():
    assert not violations("importlib.import_module('triton'); subprocess.run(['ls'], shell=False)")
