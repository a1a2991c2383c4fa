"""The model card: README.md of a model folder, written from its figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from signsclf.files import write_atomic
from signsclf.metrics.classification import Report, format_n
from signsclf.model import folder as modelfolder
from signsclf.text import visible

_WEAKEST = 8
_NAMES_SHOWN = 60


def write_card(folder: Path, config: modelfolder.Config, report: Report | None) -> None:
    """Writes README.md from config.json's values and, for the weakest classes, the validation report."""
    write_atomic(folder / modelfolder.CARD, render(config, report).encode("utf-8", "backslashreplace"))


def render(config: modelfolder.Config, report: Report | None) -> str:
    """The card as Markdown."""
    figures = config.figures
    training = figures.get("training") or {}
    side = config.input_size[0]
    drawn = config.recipe.get("add_synthetic")
    source = _code(training.get("source", ""))
    lines = [
        f"# {config.architecture}, {len(config.classes)} classes",
        "",
        f"An image classifier made by signsclf {config.versions['signsclf']}.",
        "",
        "## What it was trained on",
        "",
        f"- {training.get('n', 0):,} images of {len(config.classes)} classes, source {source}",
        *([f"- and {drawn} signs of each class that the package draws, new ones every epoch"] if drawn else []),
        f"- data fingerprint `{config.fingerprint[:16]}…` (whole in config.json)",
        f"- classes: {_some(config.classes)}",
        f"- images: whole, squashed to {side}×{side} px"
        + ("; **expects crops to the object's box**" if config.crop == "roi" else ""),
        "",
        "## How",
        "",
        *_recipe(config.recipe, training),
        "",
        "## Figures",
        "",
        *_figures(figures, report),
        "",
        "## How sure it is",
        "",
        *_calibration(config),
        "",
        "## What it is not for",
        "",
        "- Images of other things: it answers with one of its classes all the same. Look at `accepted`.",
        "- Decisions on which safety or a person's rights depend, without a test on images from that very place.",
        "",
        "## How to load it",
        "",
        *_loading(config),
        "",
        "## Licence",
        "",
        _escape(config.licence) or "Unknown.",
        "",
    ]
    return "\n".join(lines)


def _recipe(recipe: dict[str, Any], training: dict[str, Any]) -> list[str]:
    named = ", ".join(f"{name} {_escape(str(value))}" for name, value in recipe.items() if value is not None)
    spent = f"{training.get('epochs', 0)} epochs in {training.get('seconds', 0):,.0f} s"
    best = training.get("best_epoch")
    return [f"- {named}", f"- {spent}" + (f"; epoch {best} was the best and is kept" if best else "")]


def _figures(figures: dict[str, Any], report: Report | None) -> list[str]:
    valid, int8, held_out = (figures.get(name) for name in ("valid", "int8", "holdouts"))
    if held_out is not None:
        return _holdouts(held_out)
    missing = []
    if int8 is not None and int8.get("result", "written") != "written":
        missing = [
            "",
            f"`model.int8.onnx` was asked for and is not here: {_escape(int8['result'])}, {_escape(int8['reason'])}.",
        ]
    if valid is None:
        return ["Everything trained: no image was held out, so no figure can be given.", *missing]
    lines = [
        (
            "From `model.onnx`, on validation images that were held out of training. The best epoch was chosen on "
            "them, so figures on other images may be a little lower."
        ),
        "",
        f"| | {format_n(valid)} |",
        "| --- | --- |",
        (
            f"| accuracy | {_percent(valid['accuracy'])} "
            f"(95 % interval {_percent(valid['accuracy_low'])} to {_percent(valid['accuracy_high'])}) |"
        ),
        f"| top-5 | {_percent(valid['top5'])} |",
        f"| macro-F1 ({valid['n_classes_present']} classes judged) | {_percent(valid['macro_f1'])} |",
        f"| balanced accuracy | {_percent(valid['balanced_accuracy'])} |",
    ]
    if int8 is not None and not missing:
        lines.append(f"| accuracy of model.int8.onnx (n = {int8['n']:,}) | {_percent(int8['accuracy'])} |")
    lines += missing
    if report is not None:
        judged = sorted((c for c in report.per_class if c.n), key=lambda c: (c.f1, c.label))
        weak = [c for c in judged[:_WEAKEST] if c.f1 < 1]
        lines += ["", "Weakest classes (F1, n): "] if weak else ["", "No class has a mistake."]
        lines += [f"- {_escape(c.label)}: {_percent(c.f1)}, {c.n}" for c in weak]
        unjudged = [c.label for c in report.per_class if not c.n]
        if unjudged:
            lines += ["", f"Not evaluated, for want of validation images: {_some(unjudged)}."]
    return lines


def _holdouts(found: dict[str, Any]) -> list[str]:
    def spread(name: str) -> str:
        low, high = found[f"{name}_lowest"], found[f"{name}_highest"]
        return f"{_percent(found[name], 2)} ({_percent(low, 2)} to {_percent(high, 2)})"

    interval = ""
    if found.get("accuracy_low") is not None:
        low, high = _percent(found["accuracy_low"], 2), _percent(found["accuracy_high"], 2)
        interval = f"; 95 % interval {low} to {high}, whole groups of images resampled"
    models = "1 model" if found["models"] == 1 else f"{found['models']} models"
    return [
        (
            f"All images trained, so these figures are the recipe's and not this file's: of {models} made in the same "
            f"way, each evaluated on images held out of its training ({_distinct(found)}; mean, lowest and highest of "
            "the models). Their best epochs were chosen on these images; this model is its last epoch."
        ),
        "",
        "| | recipe |",
        "| --- | --- |",
        f"| accuracy | {spread('accuracy')}{interval} |",
        f"| macro-F1 | {spread('macro_f1')} |",
    ]


def _distinct(found: dict[str, Any]) -> str:
    repeated = found["n_repeated"]
    return f"n = {found['n']:,} distinct images" + (
        f", {repeated:,} of them held out more than once" if repeated else ""
    )


def _calibration(config: modelfolder.Config) -> list[str]:
    found = config.figures.get("calibration")
    if found is None:
        return ["Not known: that needs validation images of two groups or more. `accepted` is null."]
    counted = found.get("note") or "each by a fit on the other half of the groups"
    # Before format 1.2 the key was accept_error.
    aim = found.get("max_accepted_error", found.get("accept_error"))
    error = "none" if found["accepted_error"] is None else _percent(found["accepted_error"], 2)
    return [
        (
            f"- Temperature {config.temperature:.3f}, folded into the last layer. Expected calibration error "
            f"{_percent(found['ece_before'], 2)} before, {_percent(found['ece_after'], 2)} after."
        ),
        (
            f"- Accepted from a probability of {config.reject_threshold:.4f} up: {_percent(found['accepted'])} of the "
            f"images, of which {error} wrong (aimed at {_percent(aim, 2)})."
        ),
        f"- Measured on {found['n']:,} images, {_escape(counted)}.",
    ]


def _loading(config: modelfolder.Config) -> list[str]:
    lines = [
        "```python",
        "import signsclf",
        "",
        'print(signsclf.load("this folder").predict("image.png"))',
        "```",
        "",
        (
            f"Or `model.onnx` in any ONNX Runtime: uint8 RGB (N, {config.input_size[0]}, {config.input_size[1]}, 3) "
            "in, logits out, labels in the metadata."
        ),
    ]
    if "fastai" in config.readers:
        lines.append(
            "fastai opens `learner.pkl` on the Python that wrote it "
            f"({config.versions.get('python', 'see config.json')}): a pickle, which can run code, so only from someone "
            "you trust."
        )
    if "timm" in config.readers:
        lines.append(
            "`timm.create_model('local-dir:this folder', pretrained=True)` and transformers' pipeline read it."
        )
    else:
        lines.append("timm and transformers do not know this architecture; the other readers do.")
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(_escape, names[:_NAMES_SHOWN])) + more


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _code(text: str) -> str:
    """Text as a Markdown code span, whatever it holds: fenced by more backticks than it has in a row."""
    text = visible(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _escape(text: str) -> str:
    """Text as Markdown shows it: nothing in it is markup, and it is one line."""
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in visible(text))
