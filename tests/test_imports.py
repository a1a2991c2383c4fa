"""Imports point back along the way of the data, and what must stay light does."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

import signsclf

ROOT = Path(signsclf.__file__).parent
LAYERS = [
    ["signsclf", "errors", "choices", "observer", "machine", "text"],
    ["files", "locks"],
    ["outputs"],
    ["imagefiles"],
    ["recipe", "images"],
    ["metrics"],
    ["report"],
    ["model"],
    ["inference"],
    ["data"],
    ["training"],
    ["export"],
    ["evaluation"],
    ["runs"],
    ["scale"],
    ["serve"],
    ["cli"],
    ["__main__"],
]
"""Modules of the package's top, and its folders: each imports from its own row and from those above it."""

_SERVING = {"starlette", "uvicorn"}
HEAVY = {
    *_SERVING,
    "torch",
    "torchvision",
    "fastai",
    "fastcore",
    "timm",
    "pandas",
    "matplotlib",
    "onnx",
    "sklearn",
    "scipy",
}
_CLI = {"numpy", "PIL", "onnxruntime", "rich"}
_PURE = _CLI | {"typer"}
_PIXELS = {"onnxruntime", "typer", "rich"}
LIGHT = {
    **dict.fromkeys(("signsclf", "errors", "choices", "files", "text", "machine", "recipe", "observer"), _PURE),
    **dict.fromkeys(
        ("imagefiles.kinds", "imagefiles.hidden", "model.config", "runs.resolve", "inference.writers"), _PURE
    ),
    "cli.*": _CLI,
    "imagefiles.depth": _PIXELS | {"PIL"},
    "imagefiles.tiff": _PIXELS,
    "images": _PIXELS,
    "model.folder": _PIXELS | {"PIL"},
    "runs.folder": _PIXELS | {"PIL"},
    "scale.processes": _PURE,
    "inference.listing": _PIXELS,
    "inference.runtime": {"PIL", "typer", "rich"},
    "inference.*": {"typer", "rich"},
    "export.golden": {"typer", "rich"},
    "metrics.findings": _PIXELS,
    "metrics.robustness": _PIXELS,
    "metrics.*": {"PIL", *_PIXELS},
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


def imported(path: Path, everywhere: bool) -> set[str]:
    """Full names of what a module imports: at its top, or everywhere: in functions and for type checkers too."""
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If):
                if everywhere or "TYPE_CHECKING" not in ast.unparse(node.test):
                    visit(node.body)
                visit(node.orelse)
            elif isinstance(node, ast.Try | ast.With):
                visit(node.body)
                for handler in getattr(node, "handlers", []):
                    visit(handler.body)
            elif isinstance(node, ast.ClassDef):
                visit(node.body)

    tree = ast.parse(path.read_text("utf-8"))
    visit(
        [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)] if everywhere else tree.body
    )
    return found


MODULES = modules()
IMPORTS = {name: imported(path, everywhere=False) for name, path in MODULES.items()}
ALL_IMPORTS = {name: imported(path, everywhere=True) for name, path in MODULES.items()}


def own(name: str, imports: dict[str, set[str]] = IMPORTS) -> set[str]:
    """Modules of this package that a module imports."""
    found = set()
    for full in imports[name]:
        if full.split(".")[0] != "signsclf":
            continue
        below = full.removeprefix("signsclf").lstrip(".")
        # "from signsclf.errors import ModelError" names a thing in a module, "from signsclf import images" a module.
        found.add(next(m for m in (below, below.rpartition(".")[0], "signsclf") if m in MODULES))
    return found - {name}


def layer(name: str) -> int:
    top = name.split(".")[0]
    rows = [row for row, names in enumerate(LAYERS) if top in names]
    assert rows, f"{name} stands in no layer: add it where it belongs on the way of the data"
    return rows[0]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "signsclf"])
def test_imports_point_back_along_the_way_of_the_data(name):
    forward = sorted(other for other in own(name, ALL_IMPORTS) if layer(other) > layer(name))
    assert not forward, f"{name} imports {forward}, which come after it"


def test_there_are_no_circles():
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done and name != "signsclf":
            for other in own(name, ALL_IMPORTS):
                walk(other, (*above, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


def test_the_top_of_the_package_holds_twelve_modules_at_most():
    top = [name for name, path in MODULES.items() if path.parent == ROOT]
    assert len(top) <= 12, top


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in ("metrics", "report")])
def test_figures_and_their_pictures_know_no_trainer(name):
    known = {"metrics", "errors", "observer", "text", "signsclf"}
    if name.startswith("report"):
        known |= {"report", "files", "outputs"}
    assert {other.split(".")[0] for other in own(name)} <= known
    assert not {full.split(".")[0] for full in IMPORTS[name]} & {"torch", "fastai", "timm"}


LIGHT_MODULES = {name: found[0] for name in MODULES if (found := [LIGHT[p] for p in LIGHT if fnmatch(name, p)])}


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_light_modules_reach_nothing_heavy(name):
    seen: set[str] = set()

    def reach(module: str) -> None:
        if module not in seen:
            seen.add(module)
            for other in own(module):
                reach(other)

    reach(name)
    packages = {full.split(".")[0] for module in seen for full in IMPORTS[module]}
    assert not packages & (HEAVY | LIGHT_MODULES[name])


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
        assert not printing or name == "cli.terminal", f"{name}: {printing}: unescaped text must not reach a terminal"
