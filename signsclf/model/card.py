"""The model card: README.md of a model folder, with the metadata that Hugging Face's hub reads at its top."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from signsclf.errors import ModelError
from signsclf.files import file_hash, write_atomic
from signsclf.metrics.classification import format_n
from signsclf.model import folder as modelfolder
from signsclf.text import visible

_FRONT_MATTER = re.compile(r"\A---\r?\n.*?\n---\r?\n\s*", re.DOTALL)
_NAMES_SHOWN = 60
_RENDERED = (
    "They are rendered signs, made as those of the training were: **the figures say nothing of photographs.** Some "
    "labelled photographs do: `signsclf evaluate MODEL FOLDER`."
)
_ARTIFACTS = (modelfolder.ONNX, modelfolder.ONNX_INT8, modelfolder.WEIGHTS, modelfolder.LEARNER)


def write_card(folder: Path, config: modelfolder.Config) -> None:
    """Write README.md of a folder whose other files are in place: run/per_class.csv and the artifacts are read.

    Raises:
        ModelError: a file is damaged, or cannot be read or written.
    """
    per_class = folder / modelfolder.RUN / "per_class.csv"
    # Not splitlines, which would cut a label at characters such as U+2028.
    table = io.StringIO(modelfolder.read_text(per_class) if per_class.is_file() else "", newline="")
    sums = {name: file_hash(folder / name) for name in _ARTIFACTS if (folder / name).is_file()}
    try:
        text = render(config, list(csv.DictReader(table)), sums)
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{per_class}: not a table of per-class figures ({error!r}); export the model again"
        ) from error
    write_atomic(folder / modelfolder.CARD, text.encode("utf-8", "backslashreplace"))


def readable_part(card: str) -> str:
    """Cut off the metadata at the top of a card, which is for programs."""
    return _FRONT_MATTER.sub("", card, count=1)


def render(
    config: modelfolder.Config, per_class: Sequence[Mapping[str, str]] = (), sums: Mapping[str, str] | None = None
) -> str:
    """Render the card as Markdown. Nothing in it that came from outside is markup.

    Args:
        per_class: rows of per_class.csv, see `signsclf.report.files.write_report`; empty without validation images.
        sums: SHA-256 of each artifact, by its name.
    """
    figures = config.figures
    training = figures.get("training") or {}
    side = config.input_size[0]
    added = config.recipe.get("add_synthetic")
    source = _code(training.get("source", ""))
    lines = [
        *_front_matter(config),
        f"# {config.architecture}, {len(config.classes)} classes",
        "",
        f"An image classifier made by signsclf {config.versions['signsclf']}.",
        "",
        "## What it was trained on",
        "",
        f"- {training.get('n', 0):,} images of {len(config.classes)} classes, source {source}",
        *([f"- and {added} synthetic signs of each class, rendered anew in every epoch"] if added else []),
        *([f"- from {_escape(config.initial_weights)}"] if config.initial_weights else []),
        f"- data fingerprint `{config.fingerprint[:16]}…` (complete in config.json)",
        f"- classes: {_some(config.classes)}",
        f"- images: the whole image, squashed to {side}×{side} px"
        + ("; **expects crops to the object's box**" if config.crop == "roi" else ""),
        "",
        "## How it was made",
        "",
        *_recipe(config, training),
        "",
        "## Figures",
        "",
        *_figures(figures, per_class),
        "",
        "## Confidence",
        "",
        *_calibration(config),
        "",
        "## Limits",
        "",
        "- It answers every image with one of its classes, out-of-distribution images too: look at `accepted`.",
        "- The figures hold for images like those it was evaluated on. Evaluate it on your own: `signsclf evaluate`.",
        "- Not for decisions on which safety or rights depend, unless tested on images from that very place.",
        "",
        "## How to load it",
        "",
        *_loading(config),
        "",
        *_files(sums or {}),
        "## Licence",
        "",
        _escape(config.licence) or "Unknown.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(config: modelfolder.Config) -> list[str]:
    """Render the metadata: YAML with every text as a JSON string, which is YAML too."""
    by_timm = "timm" in config.readers
    tags = ["image-classification", "signsclf", "onnx", *(["traffic-signs"] if config.is_gtsrb else [])]
    lines = [
        "---",
        "license: other",
        "license_name: see-the-card",
        'license_link: "#licence"',
        f"library_name: {'timm' if by_timm else 'signsclf'}",
        "pipeline_tag: image-classification",
        f"tags: {json.dumps(tags)}",
        'metrics: ["accuracy", "f1"]',
    ]
    if valid := config.figures.get("valid"):
        source = (config.figures.get("training") or {}).get("source", "")
        n = format_n(valid)
        interval = f"95 % interval {_percent(valid['accuracy_low'])} to {_percent(valid['accuracy_high'])}"
        lines += [
            "model-index:",
            f"- name: {_yaml(config.architecture)}",
            "  results:",
            "  - task: {type: image-classification}",
            f"    dataset: {{type: imagefolder, split: validation, name: {_yaml(source)}}}",
            "    metrics:",
            f"    - {{type: accuracy, value: {valid['accuracy']}, name: {_yaml(f'accuracy, {n}, {interval}')}}}",
            f"    - {{type: f1, value: {valid['macro_f1']}, name: {_yaml(f'macro-F1, {n}')}}}",
        ]
    return [*lines, "---", ""]


def _yaml(text: object) -> str:
    return json.dumps(visible(str(text)), ensure_ascii=False)


def _recipe(config: modelfolder.Config, training: dict[str, Any]) -> list[str]:
    recipe = config.recipe
    shown = {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in recipe.items()}
    named = ", ".join(f"{name} {_escape(str(value))}" for name, value in shown.items() if value is not None)
    spent = f"{training.get('epochs', 0)} epochs in {training.get('seconds', 0):,.0f} s"
    if recipe.get("epochs") is None:
        return [
            f"- {named}",
            f"- {spent}, trained by hand in fastai on what `signsclf.learner` made of these options",
        ]
    best = training.get("best_epoch")
    options = {**recipe, "weights": "FILE" if config.initial_weights.startswith("local ") else recipe.get("weights")}
    if options.get("fold"):
        # The fold says it, and the two exclude each other.
        options.pop("valid_fraction", None)
    given = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, values in options.items()
        for value in (values if isinstance(values, list) else [values])
        if value is not None and value is not False
    ]
    command = shlex.join(["signsclf", "train", "SOURCE", *given, "--out=NEW"])
    return [
        f"- {named}",
        f"- {spent}" + (f"; epoch {best} was the best on the validation images and is kept" if best else ""),
        "",
        "The command that makes it again from the same images:",
        "",
        "```sh",
        visible(command),
        "```",
    ]


def _figures(figures: dict[str, Any], per_class: Sequence[Mapping[str, str]]) -> list[str]:
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
        return ["Trained on all images: none was held out, so no figure can be given.", *missing]
    chosen = "Nothing was chosen on them: the last epoch is kept."
    # In older folders the best epoch was always kept, and the key is not there.
    if valid.get("chosen_on", "valid") is not None:
        chosen = "The best epoch was chosen on them, so figures on other images may be a little lower."
    lines = [
        f"From `model.onnx`, on validation images that were held out of training. {chosen}{_taught(valid)}",
        *([_RENDERED] if (figures.get("training") or {}).get("source") == "synthetic" else []),
        "",
        f"| | {format_n(valid)} |",
        "| --- | --- |",
        (
            f"| accuracy | {_percent(valid['accuracy'])} (95 % interval "
            f"{_percent(valid['accuracy_low'])} to {_percent(valid['accuracy_high'])}{_by_groups(valid)}) |"
        ),
        f"| top-5 | {_percent(valid['top5'])} |",
        f"| macro-F1 ({valid['n_classes_present']} classes evaluated) | {_percent(valid['macro_f1'])} |",
        f"| balanced accuracy | {_percent(valid['balanced_accuracy'])} |",
        *_lost(valid),
    ]
    if int8 is not None and not missing:
        lines.append(f"| accuracy of model.int8.onnx (n = {int8['n']:,}) | {_percent(int8['accuracy'])} |")
    lines += missing
    if per_class:
        lines += ["", *_per_class(per_class)]
    return lines


def _taught(valid: dict[str, Any]) -> str:
    """Say where validation images are known to a teacher."""
    n = valid.get("n_seen_by_teacher", 0)
    if n is None:
        return " **A teacher may have been trained on some of them: then these figures flatter.**"
    return f" **A teacher was trained on {n:,} of them, so these figures flatter.**" if n else ""


def _lost(figures: dict[str, Any]) -> Iterator[str]:
    """Render the rows on groups that are wholly wrong, and on the worst ones by name."""
    if figures.get("n_groups_lost") is not None:
        yield f"| groups of images wholly wrong | {figures['n_groups_lost']:,} of {figures['n_groups']:,} |"
    if worst := figures.get("worst_groups"):
        named = ", ".join(f"{_escape(row['group'])} ({row['right']} of {row['n']} right)" for row in worst)
        yield f"| worst groups | {named} |"


def _by_groups(figures: dict[str, Any]) -> str:
    """Say what an interval is over, where that is not single images."""
    return f", over {figures['n_groups']:,} groups of images" if figures.get("n_groups") else ""


def _per_class(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Render the table of classes, lowest F1 first."""
    evaluated = sorted((row for row in rows if int(row["n"])), key=lambda row: (float(row["f1"]), row["label"]))
    yield "| class | n | precision | recall (95 % interval) | F1 |"
    yield "| --- | --- | --- | --- | --- |"
    for row in evaluated[:_NAMES_SHOWN]:
        precision = _percent(float(row["precision"])) if row["precision"] else "–"
        low, high = (_percent(float(row[name])) for name in ("recall_low", "recall_high"))
        recall = f"{_percent(float(row['recall']))} ({low} to {high})"
        yield f"| {_escape(row['label'])} | {row['n']} | {precision} | {recall} | {_percent(float(row['f1']))} |"
    if (more := len(evaluated) - _NAMES_SHOWN) > 0:
        yield ""
        yield f"{more:,} more classes, with a higher F1, are in run/per_class.csv."
    if missing := [row["label"] for row in rows if not int(row["n"])]:
        yield ""
        yield f"Not evaluated, for want of validation images: {_some(missing)}."


def _holdouts(found: dict[str, Any]) -> list[str]:
    def spread(name: str) -> str:
        low, high = found[f"{name}_lowest"], found[f"{name}_highest"]
        return f"{_percent(found[name], 2)} ({_percent(low, 2)} to {_percent(high, 2)})"

    interval = ""
    if found.get("accuracy_low") is not None:
        low, high = _percent(found["accuracy_low"], 2), _percent(found["accuracy_high"], 2)
        interval = f"; 95 % interval {low} to {high}{_by_groups(found)}"
    models = "1 model" if found["models"] == 1 else f"{found['models']} models"
    return [
        (
            f"Trained on all images, so these figures are the recipe's and not this file's: of {models} made in the "
            f"same way, each evaluated on images held out of its training ({_distinct(found)}; mean, lowest and "
            "highest of the models)."
            + (
                " Nothing was chosen on these images."
                if found.get("chosen_on", "valid") is None
                else " Their best epochs were chosen on these images; this model is its last epoch."
            )
        ),
        "",
        "| | recipe |",
        "| --- | --- |",
        f"| accuracy | {spread('accuracy')}{interval} |",
        f"| macro-F1 | {spread('macro_f1')} |",
        *_lost(found),
    ]


def _distinct(found: dict[str, Any]) -> str:
    repeated = found["n_repeated"]
    return f"n = {found['n']:,} distinct images" + (
        f", {repeated:,} of them held out more than once" if repeated else ""
    )


def _calibration(config: modelfolder.Config) -> list[str]:
    found = config.figures.get("calibration")
    if found is None:
        return ["Not known: that needs images of two groups or more that are held out. `accepted` is null."]
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
            f"- Accepted at a probability of {config.reject_threshold:.4f} or more: {_percent(found['accepted'])} of "
            f"the images, of which {error} wrong (aimed at {_percent(aim, 2)})."
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


def _files(sums: Mapping[str, str]) -> list[str]:
    if not sums:
        return []
    rows = [f"| `{name}` | `{digest}` |" for name, digest in sums.items()]
    return ["## Files", "", "| file | SHA-256 |", "| --- | --- |", *rows, ""]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(_escape, names[:_NAMES_SHOWN])) + more


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _code(text: str) -> str:
    """Render text as a Markdown code span, fenced by more backticks than it has in a row."""
    text = visible(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _escape(text: str) -> str:
    """Escape text for Markdown: it is shown as it is, on one line, and none of it is markup."""
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in visible(text))
