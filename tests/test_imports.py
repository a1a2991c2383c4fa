"""Imports point back along the way of the data, and what must stay light does."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

import signsclf

ROOT = Path(signsclf.__file__).parent
LAYERS = [
    ["signsclf", "errors", "choices", "threads", "text", "arrivals", "mpl"],
    ["files", "locks", "paths"],
    ["outputs"],
    ["imagekinds", "depth"],
    ["tiff", "hidden"],
    ["recipe", "images", "modelconfig", "observer", "runtime"],
    ["resolve"],
    ["data.*", "judging.*", "modelfolder"],
    ["runfolder", "listing", "writers", "training.*"],
    ["predict", "prepare"],
    ["replay", "explain", "card", "export", "restore"],
    ["reload"],
    ["quantize", "evaluate"],
    ["evalreport", "diff", "holdouts"],
    ["finish", "preflight"],
    ["train"],
    ["compare", "runexport"],
    ["options", "recipe_options", "terminal", "cli_*", "cli"],
    ["__main__"],
]
"""A module imports from its own row and from those above it, at its top."""

HEAVY = {"torch", "torchvision", "fastai", "fastcore", "timm", "pandas", "matplotlib", "onnx", "scipy", "sklearn"}
LIGHT = {
    "signsclf": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "errors": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "choices": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "recipe": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "resolve": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "observer": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "options": {"numpy", "PIL", "onnxruntime", "rich"},
    "terminal": {"numpy", "PIL", "onnxruntime", "rich"},
    "cli": {"numpy", "PIL", "onnxruntime", "rich"},
    "recipe_options": {"numpy", "PIL", "onnxruntime", "rich"},
    **{
        f"cli_{name}": {"numpy", "PIL", "onnxruntime", "rich"}
        for name in ("cache", "compare", "data", "judge", "model", "predict", "train")
    },
    "imagekinds": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "hidden": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "depth": {"PIL", "onnxruntime", "typer", "rich"},
    "tiff": {"onnxruntime", "typer", "rich"},
    "images": {"onnxruntime", "typer", "rich"},
    "modelconfig": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "modelfolder": {"PIL", "onnxruntime", "typer", "rich"},
    "runfolder": {"PIL", "onnxruntime", "typer", "rich"},
    "listing": {"onnxruntime", "typer", "rich"},
    "writers": {"numpy", "PIL", "onnxruntime", "typer", "rich"},
    "runtime": {"PIL", "typer", "rich"},
    "predict": {"typer", "rich"},
    "replay": {"typer", "rich"},
    "explain": {"typer", "rich"},
}
"""Modules that import none of `HEAVY`, nor of these."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name below signsclf."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts) or "signsclf"] = path
    return found


def imported(path: Path) -> set[str]:
    """Full names of what a module imports when it is imported: not in functions, not for type checkers."""
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(node.test):
                    visit(node.body)
                visit(node.orelse)
            elif isinstance(node, ast.Try | ast.With):
                visit(node.body)
                for handler in getattr(node, "handlers", []):
                    visit(handler.body)
            elif isinstance(node, ast.ClassDef):
                visit(node.body)

    visit(ast.parse(path.read_text("utf-8")).body)
    return found


MODULES = modules()
IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def own(name: str) -> set[str]:
    """Modules of this package that a module imports."""
    found = set()
    for full in IMPORTS[name]:
        if full.split(".")[0] != "signsclf":
            continue
        below = full.removeprefix("signsclf").lstrip(".")
        # "from signsclf.errors import ModelError" names a thing in a module, "from signsclf import images" a module.
        found.add(next(m for m in (below, below.rpartition(".")[0], "signsclf") if m in MODULES))
    return found - {name}


def layer(name: str) -> int:
    patterns = [(row, pattern) for row, names in enumerate(LAYERS) for pattern in names]
    for row, pattern in patterns:
        if fnmatch(name, pattern) or (pattern.endswith(".*") and name == pattern[:-2]):
            return row
    raise AssertionError(f"{name} stands in no layer: add it where it belongs on the way of the data")


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_back_along_the_way_of_the_data(name):
    forward = sorted(other for other in own(name) if layer(other) > layer(name))
    assert not forward, f"{name} imports {forward}, which come after it"


def test_there_are_no_circles():
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in own(name):
                walk(other, (*above, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "judging"])
def test_judging_knows_no_trainer(name):
    known = {"judging", "errors", "files", "mpl", "outputs", "text", "signsclf"}
    assert {other.split(".")[0] for other in own(name)} <= known
    assert not {full.split(".")[0] for full in IMPORTS[name]} & {"torch", "fastai", "timm"}


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_reach_nothing_heavy(name):
    seen: set[str] = set()

    def reach(module: str) -> None:
        if module not in seen:
            seen.add(module)
            for other in own(module):
                reach(other)

    reach(name)
    packages = {full.split(".")[0] for module in seen for full in IMPORTS[module]}
    assert not packages & (HEAVY | LIGHT[name])


def test_matplotlib_is_imported_in_functions_only_and_pyplot_nowhere():
    for name, path in MODULES.items():
        assert not any(full.split(".")[0] == "matplotlib" for full in IMPORTS[name]), name
        tree = ast.walk(ast.parse(path.read_text("utf-8")))
        names = [ast.unparse(node) for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("pyplot" in line for line in names), name


def test_only_the_terminal_module_prints():
    for name, path in MODULES.items():
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        words = {ast.unparse(call) for call in calls}
        printing = words & {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
        assert not printing or name == "terminal", f"{name}: {printing}: unescaped text must not reach a terminal"


def test_no_two_files_of_tests_have_one_name():
    # pytest imports them by their names alone, and collects nothing where two are alike.
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
