"""README.md and docs/ say what the program does: blocks run, commands parse, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import typer
from test_words import TEXT
from tinysource import Ran
from typer.main import get_command

from signsclf.cli.app import app
from signsclf.data import synthetic
from signsclf.recipe import Recipe

ROOT = Path(__file__).parent.parent
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REAL = "$SIGNSCLF_TEST_DATA"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page: its language, its text, and the line of the page that it begins in."""

    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(language=m[1], text=m[2], line=text.count("\n", 0, m.start()) + 1) for m in found]
    return [block for block in every if block.language in languages]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


RUN = [page for page in TEXTS if blocks(page, "python", "console")]
"""Pages with blocks that are run; those whose text has `REAL` run where real images are."""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: photos, new and other ones, and two models of the photos. Copy it."""
    from signsclf.runs.train import train

    folder = tmp_path_factory.mktemp("docs")
    rendered = tmp_path_factory.mktemp("rendered")
    synthetic.write(rendered, 8, (24, 48), 0)
    for class_id, label in (("00014", "cat"), ("00013", "dog"), ("00017", "panda")):
        images = sorted((rendered / class_id).iterdir())
        for number, image in enumerate(images):
            target = folder / "photos" / label / f"{number}.png" if number < 6 else folder / "new" / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target.with_stem(f"{label}-{number}") if number >= 6 else target)
    shutil.copytree(rendered / "00025", folder / "holiday")
    shutil.copy(rendered / "00014" / "00000_00000.png", folder / "image.png")
    shutil.copy(ROOT / "models" / "gtsrb-signnet" / "config.json", folder / "config.json")
    small = Recipe(arch="signnet", weights="none", size=32, epochs=1, batch_size=8, precision="fp32", device="cpu")
    train(folder / "photos", folder / "models" / "small", small)
    pretrained = Recipe(arch="tf_efficientnet_lite0", weights="imagenet", size=64, freeze_epochs=1, epochs=1)
    train(folder / "photos", folder / "models" / "pets", pretrained, learner=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name)
def test_every_block_runs(page: Path, place: Path, tmp_path: Path, cli: Callable[..., Ran], monkeypatch):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    if "--out models/pets\n" in page.read_text(encoding="utf-8"):
        shutil.rmtree(tmp_path / "models" / "pets")  # the page trains it
    monkeypatch.chdir(tmp_path)
    run_blocks([block for block in blocks(page, "python", "console") if REAL not in block.text], page, cli)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif("SIGNSCLF_TEST_DATA" not in os.environ, reason="needs $SIGNSCLF_TEST_DATA")
@pytest.mark.parametrize("page", RUN, ids=name)
def test_every_block_for_real_images_runs(page: Path, tmp_path: Path, cli: Callable[..., Ran], monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks([block for block in blocks(page, "python", "console") if REAL in block.text], page, cli)


def run_blocks(found: list[Block], page: Path, cli: Callable[..., Ran]) -> None:
    """Run blocks of a page in order, in the working directory; those in Python share their names."""
    names: dict = {"__name__": "__main__"}
    for block in found:
        if block.language == "python":
            # With the page's own line numbers in a traceback.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        else:
            run_console(block.text, cli, f"{name(page)}:{block.line}")


def run_console(text: str, cli: Callable[..., Ran], where: str) -> None:
    """Run the lines after "$ ", and compare what they say with the lines below, where "..." stands for anything.

    A command without lines below may say anything. It has to exit with 0, or with what ``echo $?`` shows after it.
    """
    parts = re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]
    parts = [part.partition("\n")[::2] for part in parts]
    for number, (line, wanted) in enumerate(parts):
        if line == "echo $?":
            continue
        code, said = run_line(line, cli)
        after = parts[number + 1 : number + 2]
        expected = int(after[0][1]) if after and after[0][0] == "echo $?" else 0
        assert code == expected, f"{where}: {line}\n{said}"
        same = doctest.OutputChecker().check_output(wanted, said, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert same or not wanted, f"{where}: {line}\nwanted:\n{wanted}\nsaid:\n{said}"


def run_line(line: str, cli: Callable[..., Ran]) -> tuple[int, str]:
    """Run a command line: signsclf in this process, with patterns expanded; others, and pipes, in a shell."""
    words = shlex.split(os.path.expandvars(line), comments=True)
    if words[0] == "signsclf" and not {"|", ">", "<", "&&"} & set(words):
        names = [sorted(map(str, Path().glob(word))) or [word] if "*" in word else [word] for word in words[1:]]
        ran = cli(*itertools.chain(*names))
        return ran.code, ran.err + ran.out
    tools = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": tools, "COLUMNS": "200"}
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment, timeout=300, check=False)
    return done.returncode, done.stderr + done.stdout


def test_a_wrong_block_would_not_pass(cli: Callable[..., Ran]):
    run_console("$ signsclf --version\nsignsclf ...\n$ signsclf predict gone.png\n$ echo $?\n1\n", cli, "here")
    for text in ("$ signsclf --version\nother\n", "$ signsclf predict gone.png\n", "$ signsclf --version\n$ false\n"):
        with pytest.raises(AssertionError):
            run_console(text, cli, "here")


def commands(page: Path) -> Iterator[list[str]]:
    """Every command line of a page's sh blocks, which are not run, that starts with signsclf, as its words."""
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s[|>]\s|&&", line):
                words = shlex.split(part, comments=True)
                if words[:1] == ["signsclf"]:
                    yield words[1:]


LOG = ROOT / "docs" / "log"
"""What was run in its day, with the options of its day."""
LINES = [words for page in TEXTS if LOG not in page.parents for words in commands(page)]


@pytest.mark.parametrize("words", LINES, ids=" ".join)
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


MADE = {ROOT / "docs" / "platforms.md"}
"""Pages that a script writes, which may not have been run yet."""


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_links_lead_somewhere(page: Path):
    for place, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        target = (page.parent / place).resolve()
        assert target.exists() or target in MADE, place
        assert not anchor or anchor in anchors(target), f"{place}#{anchor}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path):
    pytest.importorskip("material", reason="needs the extra docs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:link|script|img|iframe)[^>]*?(?:href|src)=\"(.*?)\"", page.read_text(encoding="utf-8")
        )
        assert loaded
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


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


EXPERIMENTS = ROOT / "docs" / "log" / "experiments.jsonl"
FIELDS = {"date", "command", "commit", "machine", "n", "figures", "outcome", "note", "page"}
OUTCOMES = {"holds", "taken", "superseded", "not taken", "failed"}


def test_every_experiment_is_a_line_of_json_with_its_evidence():
    for number, line in enumerate(EXPERIMENTS.read_text(encoding="utf-8").splitlines(), 1):
        experiment = json.loads(line)
        assert set(experiment) == FIELDS, number
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", experiment["date"]), number
        assert re.fullmatch(r"[0-9a-f]{7}", experiment["commit"]), number
        assert experiment["outcome"] in OUTCOMES, number
        assert experiment["n"] is None or experiment["n"] > 0, number
        assert all(isinstance(figure, int | float) for figure in experiment["figures"].values()), number
        assert (LOG / experiment["page"]).is_file(), number


def test_readme_fits_in_220_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220


def test_the_page_on_the_model_folder_has_every_key():
    from signsclf.model.config import Config

    page = (ROOT / "docs" / "model-folder.md").read_text(encoding="utf-8")
    config = Config(
        architecture="signnet", classes=("a", "b"), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), recipe={}
    )
    written = json.loads(config.to_json())
    keys = [*written, *written["pretrained_cfg"], *written["signsclf"]]
    missing = [key for key in keys if key != "signsclf" and not re.search(rf"[`.]{key}[`.]", page)]
    assert not missing
    assert f"This page is of format {written['signsclf']['format_version']}." in page


def test_the_architecture_page_names_every_folder_and_every_dependency():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in (ROOT / "signsclf").glob("*/__init__.py")]
    assert folders
    assert not [folder for folder in folders if f"`{folder}/`" not in page]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["train"], *extras["plots"]]
    names = [found for need in needed if (found := re.match(r"[\w-]+", need)[0]) != "signsclf"]
    shipped = [extra for extra in extras if extra not in ("dev", "docs", "train")]
    assert not [name for name in (*names, *shipped) if f"`{name}`" not in page]


OLD_WORDS = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in TEXT), re.IGNORECASE)
OF_OLD_WORDS = {ROOT / "CHANGELOG.md", *LOG.glob("*.md")}
"""Pages that name what things were called before."""


@pytest.mark.parametrize("page", sorted({*TEXTS} - OF_OLD_WORDS), ids=name)
def test_pages_speak_the_fields_language(page: Path):
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`|\]\([^)]*\)", "", page.read_text(encoding="utf-8"), flags=re.M | re.DOTALL)
    assert not [found[0] for found in OLD_WORDS.finditer(prose)]
