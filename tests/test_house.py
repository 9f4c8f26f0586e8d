"""The laws of the house that no single module's test would notice."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "surefoot"
SOURCES = sorted(PACKAGE.rglob("*.py"))
EXTRAS = (
    "transformers", "peft", "accelerate", "datasets", "reasoning_gym", "math_verify", "minari", "h5py",
    "pettingzoo", "mpe2", "sklearn", "ray", "onnx", "onnxruntime", "onnxscript", "huggingface_hub", "optuna",
)  # fmt: skip
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "torch.load", "torch.save", "yaml.load"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_part_of_a_method(path: Path) -> bool:
    """Whether the file is methods/<setting>/<slug>/<part>.py, which only that paper's method may import."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] == "methods" and len(parts) == 4 and path.name != "__init__.py"


def parts_imported(source: str) -> set[str]:
    """The methods, as `setting.slug`, whose own parts a file imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {m for m in modules if (PACKAGE.parent / (m.replace(".", "/") + ".py")).is_file()}
            if isinstance(node, ast.ImportFrom):
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {m for m in full if (PACKAGE.parent / (m.replace(".", "/") + ".py")).is_file()}
    owners = [m.split(".") for m in found if m.startswith("surefoot.methods.")]
    return {".".join(names[2:4]) for names in owners if len(names) == 5}


def test_the_search_for_imported_parts_finds_them():
    whole = "from surefoot.methods.control.fixpo.fixup import Fixup"
    by_name = "def f():\n    from surefoot.methods.control.fixpo import fixup"
    assert parts_imported(whole) == parts_imported(by_name) == {"control.fixpo"}
    assert parts_imported("from surefoot.methods.control.fixpo import FixPO") == set()


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(PACKAGE / "methods")], ids=relative)
def test_no_method_imports_another_methods_parts(path):
    """What two papers use is a part of its own, in a package that both may import."""
    own = ".".join(path.relative_to(PACKAGE / "methods").with_suffix("").parts[:2])
    assert parts_imported(path.read_text(encoding="utf-8")) <= {own}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_holds_one_idea(path):
    is_method = path.relative_to(PACKAGE).parts[0] == "methods" and not is_part_of_a_method(path)
    limit = 200 if is_method else 400
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= limit, f"{lines} lines: move what is shared into a part, or split two ideas"


def calls_of_unsafe_loaders(tree: ast.AST) -> list[str]:
    """Every place in a syntax tree where stored bytes or strings could become running code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            roots = {name.split(".")[0] for name in names}
            found += [f"line {node.lineno}: import {name}" for name in roots & UNSAFE_MODULES]
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            found.append(f"line {node.lineno}: from pickle import")
        # Spawned workers are sent pickles, and dumps finds out whether they can be; reading one back is never right.
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pickle.") and node.attr != "dumps":
            found.append(f"line {node.lineno}: pickle.{node.attr}")
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "torch.load" and any(ast.unparse(k) == "weights_only=True" for k in node.keywords):
                continue  # reads tensors and plain containers, and refuses the rest
            if name in UNSAFE_CALLS:
                found.append(f"line {node.lineno}: {name}")
            elif name.endswith("load") and any(k.arg == "allow_pickle" for k in node.keywords):
                found.append(f"line {node.lineno}: {name}(allow_pickle=...)")
    return found


def test_the_search_for_unsafe_loaders_finds_them():
    unsafe = (
        "import dill",
        "from pickle import load",
        "pickle.load(f)",
        "eval('')",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=b)",
    )
    assert all(len(calls_of_unsafe_loaders(ast.parse(line))) == 1 for line in unsafe)
    harmless = "import pickle", "pickle.dumps(b)", "model.eval()", "torch.compile(f)", "np.load(f)"
    harmless += ("torch.load(f, weights_only=True)",)
    assert not any(calls_of_unsafe_loaders(ast.parse(line)) for line in harmless)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_loading_runs_no_code(path):
    assert calls_of_unsafe_loaders(ast.parse(path.read_text(encoding="utf-8"))) == []


def loaded_by(statement: str) -> tuple[set[str], float]:
    """The top-level modules that a statement loads in a fresh interpreter, and how many seconds it takes."""
    code = f"import sys, time\nt = time.perf_counter()\n{statement}\nprint(time.perf_counter() - t, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    return {name.split(".")[0] for name in modules}, float(seconds)


@pytest.mark.parametrize(
    "statement", ["import surefoot", "from surefoot import catalogue; [p.claimed for p in catalogue.papers()]"]
)
def test_importing_is_quick_and_loads_neither_torch_nor_an_extra(statement):
    modules, _ = loaded_by(statement)
    assert "surefoot" in modules
    assert not modules & {"torch", "gymnasium", "envpool", "matplotlib", *EXTRAS}
    assert min(loaded_by(statement)[1] for _ in range(3)) < 1.0  # the best of three: the machine may be busy


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# Written in pieces, so that this file does not find itself.
PLACES = ["/" + place for place in ("home/", "Users/", "root/", "work/", "tmp/[a-z]")]
MACHINE = re.compile("|".join([*PLACES, "--index" + "-url"]))


def test_no_tracked_file_names_a_machine_or_a_registry():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{relative(path)}:{n}" for n, line in enumerate(text.splitlines(), 1) if MACHINE.search(line)]
    assert found == []


def test_what_is_pinned_is_what_is_allowed():
    """Every dependency that pyproject names for running, developing and documenting has its pin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(
            d
            for extra in ("dev", "docs", "language", "tune", "supervised")
            for d in project["optional-dependencies"][extra]
        ),
    ]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    normal = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    for requirement in wanted:
        if requirement.startswith("surefoot["):
            continue  # another extra, which has its own line
        name, _, low = re.sub(r"\[.*?\]|;.*", "", requirement).partition(">=")
        version = normal[re.sub(r"[-_.]+", "-", name).lower()]
        as_numbers = [[int(x) for x in re.findall(r"\d+", v)] for v in (version, low)]
        assert as_numbers[0] >= as_numbers[1], f"{name}: {version} is tested, {low} is asked for"
