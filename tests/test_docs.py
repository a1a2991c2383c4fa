"""README.md and docs/ say what the program does: blocks run, commands parse, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.main import get_command

from signsclf.cli.app import app
from signsclf.data import synthetic
from signsclf.recipe import Recipe

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/python.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: models/demo, image.png and the class folders photos."""
    from signsclf.runs.train import train

    folder = tmp_path_factory.mktemp("docs")
    drawn = folder / "drawn"
    synthetic.write(drawn, 6, (24, 48), 0)
    for class_id, name in (("00014", "cat"), ("00013", "dog"), ("00017", "panda")):
        (folder / "photos" / name).mkdir(parents=True)
        for number, image in enumerate(sorted((drawn / class_id).iterdir())):
            shutil.copy(image, folder / "photos" / name / f"{number}.png")
    shutil.copy(drawn / "00014" / "00000_00000.png", folder / "image.png")
    recipe = Recipe(arch="signnet", weights="none", size=32, epochs=1, batch_size=8, precision="fp32", device="cpu")
    train(folder / "photos", folder / "models" / "demo", recipe)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_runs(page: str, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    found = blocks(page, "python")
    assert found
    names: dict = {"__name__": "__main__"}
    for number, block in enumerate(found, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def commands(page: str) -> Iterator[list[str]]:
    """Every command line of a page's sh blocks that starts with signsclf, as its words."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s[|>]\s", line):
                words = shlex.split(part, comments=True)
                if words[:1] == ["signsclf"]:
                    yield words[1:]


@pytest.mark.parametrize("words", list(commands("README.md")), ids=" ".join)
def test_every_command_line_parses(words: list[str]):
    command, name = get_command(app), "signsclf"
    while words and words[0] in getattr(command, "commands", {}):
        command, name, words = command.commands[words[0]], words[0], words[1:]
    try:
        command.make_context(name, list(words))
    except typer.Exit as done:
        assert done.exit_code == 0


def test_a_wrong_command_line_would_not_parse():
    with pytest.raises(Exception, match="--nonsense"):
        test_every_command_line_parses(["predict", "image.png", "--nonsense"])


TEXTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
MADE = {ROOT / "docs" / "platforms.md"}
"""Pages that a script writes, which may not have been run yet."""


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for place, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        target = (page.parent / place).resolve()
        assert target.exists() or target in MADE, place
        assert not anchor or anchor in anchors(target), f"{place}#{anchor}"


@pytest.fixture
def cli_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli_docs", ROOT / "scripts" / "make_cli_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_page_is_what_the_program_says(cli_docs: ModuleType):
    page, again = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "run scripts/make_cli_docs.py again"
    if f"typer {typer.__version__};" in page:
        assert page == cli_docs.render(), again
    # Another version of typer sets it otherwise, but has the same options and the same words on them.
    sections = dict(re.findall(r"^## (.+?)$(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    commands = {path: command.get_params(context) for path, command, context in cli_docs.walk(get_command(app))}
    assert list(sections) == list(commands), again
    for path, parameters in commands.items():
        told = set(sections[path].replace(",", " ").split())
        names = {name for parameter in parameters for name in parameter.opts if name.startswith("-")}
        assert {word for word in told if word.startswith("-")} >= names, again
        words = " ".join(getattr(parameter, "help", None) or "" for parameter in parameters)
        assert set(words.replace(",", " ").split()) <= told, again
