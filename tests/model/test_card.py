from __future__ import annotations

import hashlib
import shlex

import pytest
from tinymodel import config

from signsclf.errors import ModelError
from signsclf.files import csv_bytes
from signsclf.model import card
from signsclf.model.folder import read_config

VALID = {
    "n": 200,
    "accuracy": 0.955,
    "accuracy_low": 0.917,
    "accuracy_high": 0.976,
    "top5": 1.0,
    "macro_f1": 0.912,
    "n_classes_present": 2,
    "balanced_accuracy": 0.9,
}
CALIBRATION = {
    "n": 200,
    "ece_before": 0.064,
    "ece_after": 0.031,
    "accepted": 0.93,
    "accepted_error": 0.004,
    "max_accepted_error": 0.005,
}
TRAINING = {"n": 1234, "source": "my signs", "epochs": 7, "best_epoch": 5, "seconds": 61.0, "skipped": 2}


SUMS = {"model.onnx": "0f" * 32, "model.safetensors": "1e" * 32}


def of(figures: dict, per_class: list[dict[str, str]] | None = None, **changes: object) -> str:
    return card.render(config(figures=figures, fingerprint="ab" * 32, **changes), per_class or [], SUMS)


def row(label: str, n: int, precision: str = "", recall: str = "", f1: str = "") -> dict[str, str]:
    """A row of per_class.csv."""
    low, high = ("0.100000", "0.900000") if n else ("", "")
    values = (label, str(n), precision, recall, f1, low, high)
    return dict(zip(("label", "n", "precision", "recall", "f1", "recall_low", "recall_high"), values, strict=True))


def report() -> list[dict[str, str]]:
    return [
        row("red", 2, "0.666667", "1.000000", "0.800000"),
        row("green", 2, "1.000000", "0.500000", "0.666667"),
        row("blue", 0),
    ]


def front_matter(text: str) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text.split("---\n")[1])


def test_synthetic_signs_are_told_apart_from_images():
    assert "- and 200 synthetic signs of each class" in of({"training": TRAINING}, recipe={"add_synthetic": 200})
    assert "synthetic" not in of({"training": TRAINING}, recipe={"add_synthetic": 0}).split("## How it")[0]


def test_figures_stand_with_n_and_interval():
    text = of({"training": TRAINING, "valid": VALID, "calibration": CALIBRATION}, report())
    for words in (
        "1,234 images",
        "`my signs`",
        "n = 200",
        "95.5 %",
        "91.7 % to 97.6 %",
        "7 epochs",
        "epoch 5 was the best",
        "The best epoch was chosen on them",
    ):
        assert words in text, words
    assert "| green | 2 | 100.0 % | 50.0 % (10.0 % to 90.0 %) | 66.7 % |" in text
    assert text.index("| green |") < text.index("| red |"), "the lowest F1 first"
    assert "Not evaluated, for want of validation images: blue" in text


def test_a_model_that_nothing_chose_is_said_to_be():
    text = of({"training": {**TRAINING, "best_epoch": None}, "valid": {**VALID, "chosen_on": None, "n_groups": 20}})
    assert "Nothing was chosen on them" in text and "best" not in text
    assert "n = 200 in 20 groups" in text
    assert "91.7 % to 97.6 %, over 20 groups of images" in text


def test_rendered_signs_say_nothing_of_photographs():
    words = "say nothing of photographs"
    assert words in of({"training": {**TRAINING, "source": "synthetic"}, "valid": VALID})
    assert words not in of({"training": TRAINING, "valid": VALID})


def test_groups_that_are_lost_are_counted_and_named():
    worst = [{"group": "stop_1|", "n": 30, "right": 0}]
    holdouts = {"n": 90, "n_repeated": 0, "models": 2, "n_groups": 3, "n_groups_lost": 1, "worst_groups": worst}
    spread = {f"{name}{end}": 0.9 for name in ("accuracy", "macro_f1") for end in ("", "_lowest", "_highest")}
    text = of({"training": TRAINING, "valid": None, "holdouts": {**holdouts, **spread, "accuracy_low": None}})
    assert "| groups of images wholly wrong | 1 of 3 |" in text
    assert r"stop\_1\| (0 of 30 right)" in text


def test_calibration_and_the_threshold():
    text = of({"training": TRAINING, "valid": VALID, "calibration": CALIBRATION}, report(), temperature=1.5)
    for words in ("Temperature 1.500", "6.40 % before, 3.10 % after", "0.9000", "93.0 %", "0.40 % wrong", "0.50 %"):
        assert words in text, words


def test_without_validation_there_is_no_figure():
    text = of({"training": TRAINING, "valid": None, "calibration": None}, reject_threshold=None)
    assert "Trained on all images" in text
    assert "`accepted` is null" in text
    assert "accuracy |" not in text


def test_crops_are_said():
    assert "expects crops" in of({}, crop="roi")
    assert "expects crops" not in of({})


def test_readers_are_those_that_can():
    assert "timm.create_model" in of({}, readers=("onnxruntime", "timm", "transformers"))
    assert "timm and transformers do not know" in of({})


def test_labels_cannot_write_markdown_or_html():
    text = of({}, classes=("<script>", "[x](http://evil)", "a|b", "*b*"))
    assert "<script>" not in text
    assert "[x](http" not in text
    assert r"a\|b" in text


def test_the_hub_reads_what_it_is_and_how_good():
    found = front_matter(of({"training": TRAINING, "valid": VALID}, readers=("onnxruntime", "timm"), is_gtsrb=True))
    assert found["pipeline_tag"] == "image-classification"
    assert found["library_name"] == "timm"
    assert {"onnx", "signsclf", "traffic-signs"} <= set(found["tags"])
    [entry] = found["model-index"]
    [result] = entry["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["name"] == "my signs"
    accuracy, f1 = result["metrics"]
    assert (accuracy["type"], accuracy["value"]) == ("accuracy", 0.955)
    assert accuracy["name"] == "accuracy, n = 200, 95 % interval 91.7 % to 97.6 %"
    assert (f1["type"], f1["value"]) == ("f1", 0.912)
    assert "model-index" not in front_matter(of({"training": TRAINING, "valid": None}, reject_threshold=None))


def test_people_are_shown_the_card_without_the_metadata():
    text = of({"training": TRAINING, "valid": VALID}, report())
    assert text.startswith("---\nlicense: ")
    assert card.readable_part(text).startswith("# tiny, 3 classes\n")
    assert card.readable_part(text) == text[text.index("# tiny,") :]
    plain = "# a card of an earlier version\n\n---\nwith a rule\n---\n"
    assert card.readable_part(plain) == plain


def test_names_from_outside_cannot_write_metadata():
    source = "x\"}\n---\nlicense: mit: {[ '#"
    found = front_matter(of({"training": {**TRAINING, "source": source}, "valid": VALID}))
    assert found["license"] == "other"
    assert found["model-index"][0]["results"][0]["dataset"]["name"].startswith('x"}\\n---')


def test_it_lists_checksums_and_the_command_that_makes_it_again():
    text = of({})
    assert f"| `model.onnx` | `{SUMS['model.onnx']}` |" in text
    recipe = {"arch": "signnet", "weights": "a'b", "epochs": 7, "lr": 0.2, "fold": None, "batch_size": 8}
    command = of({}, recipe=recipe).partition("```sh\n")[2].partition("\n```")[0]
    words = [
        "signsclf",
        "train",
        "SOURCE",
        "--arch=signnet",
        "--weights=a'b",
        "--epochs=7",
        "--lr=0.2",
        "--batch-size=8",
        "--out=NEW",
    ]
    assert shlex.split(command) == words
    assert "--weights=FILE" in of({}, recipe=recipe, initial_weights="local a'b")
    # A flag has no value, and a fold excludes the fraction that it comes to.
    flags = {"fold": "1/5", "valid_fraction": 0.2, "freeze": True, "search": False}
    command = of({}, recipe=recipe | flags).partition("```sh\n")[2].partition("\n```")[0]
    words = shlex.split(command)
    assert {"--fold=1/5", "--freeze"} <= set(words) and not {"--valid-fraction=0.2", "--search=False"} & set(words)
    assert not [word for word in words if "valid-fraction" in word or "search" in word]
    by_hand = of({}, recipe=recipe | {"epochs": None})
    assert "trained by hand in fastai" in by_hand and "signsclf train SOURCE" not in by_hand


def test_the_checksums_of_a_trained_model_are_its_files(model):
    text = (model / "README.md").read_text("utf-8")
    for name in ("model.onnx", "model.safetensors"):
        assert hashlib.sha256((model / name).read_bytes()).hexdigest() in text


def test_the_table_of_a_folder_is_read_as_it_was_written(tmp_path):
    (tmp_path / "run").mkdir()
    label = "a\u2028b"
    heads = ("label", "n", "precision", "recall", "f1", "recall_low", "recall_high")
    table = tmp_path / "run" / "per_class.csv"
    table.write_bytes(csv_bytes([heads, (label, 2, "1.0", "0.5", "0.7", "0.1", "0.9"), ("c", 0, "", "", "", "", "")]))
    own = config(classes=(label, "c"), figures={"training": TRAINING, "valid": VALID})
    card.write_card(tmp_path, own)
    assert "| 2 | 100.0 % | 50.0 % (10.0 % to 90.0 %) | 70.0 % |" in (tmp_path / "README.md").read_text("utf-8")
    table.write_text("label,n\nx,many\n")
    with pytest.raises(ModelError, match=r"per_class\.csv: not a table of per-class figures"):
        card.write_card(tmp_path, own)


def test_many_classes_are_not_all_listed():
    text = of({}, classes=tuple(f"class {i}" for i in range(100)))
    assert "and 40 more" in text


def test_the_card_of_a_trained_model_is_its_config_in_words(model):
    text = (model / "README.md").read_text()
    found = read_config(model)
    assert f"\n# {found.architecture}, 3 classes\n" in text
    assert found.fingerprint[:16] in text
    assert f"n = {found.figures['valid']['n']}" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert [h for h in headings if "load" in h]
    assert [h for h in headings if "Licence" in h]
    assert len(headings) == len(set(headings)) == 8


def test_the_code_of_the_card_runs(model, source, monkeypatch, capsys):
    text = (model / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    image = next((source / "red bar").iterdir())
    code = code.replace('"this folder"', repr(str(model))).replace('"image.png"', repr(str(image)))
    exec(compile(code, "README.md", "exec"), {})
    assert "red bar" in capsys.readouterr().out


@pytest.mark.parametrize("figures", [{}, {"training": None}, {"valid": None}])
def test_a_foreign_folder_without_figures_has_a_card(figures):
    assert "## Figures" in of(figures)


def test_repeated_images_are_told_beside_n():
    assert "n = 200, 150 distinct" in of({"training": TRAINING, "valid": {**VALID, "n_distinct": 150}})
    assert "distinct" not in of({"training": TRAINING, "valid": {**VALID, "n_distinct": 200}})


def test_of_very_many_classes_some_are_named_and_the_rest_counted():
    names = tuple(f"class {i}" for i in range(1000))
    rows = [row(name, 1, "1", "1", f"{number / 1000}") for number, name in enumerate(names[:100])]
    rows += [row(name, 0) for name in names[100:]]
    text = of({"training": TRAINING, "valid": VALID}, rows, classes=names)
    assert "class 59 and 940 more" in text
    assert "| class 59 |" in text and "| class 60 |" not in text
    assert "40 more classes, with a higher F1, are in run/per_class.csv." in text
    assert "Not evaluated, for want of validation images: class 100, " in text
    assert "class 159 and 840 more." in text


def test_what_others_named_is_shown_and_is_no_markup():
    source = "a`b``c <img src=x>\n# heading"
    text = of(
        {"training": {**TRAINING, "source": source}},
        recipe={"weights": "[me](http://x)_*.pth"},
        licence="<script> [free](http://y)",
    )
    assert "source ```a`b``c <img src=x>\\n# heading```" in text
    assert "weights \\[me\\](http://x)\\_\\*.pth" in text
    assert "\\<script\\> \\[free\\](http://y)" in text
    assert not any(line.startswith("# heading") for line in text.splitlines())
