from __future__ import annotations

import numpy as np
import pytest
from tinymodel import config

from signsclf.metrics.classification import Report
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


def of(figures: dict, report: Report | None = None, **changes: object) -> str:
    return card.render(config(figures=figures, fingerprint="ab" * 32, **changes), report)


def report() -> Report:
    probabilities = np.array([[0.8, 0.1, 0.1]] * 3 + [[0.1, 0.8, 0.1]])
    return Report.from_probabilities(probabilities, np.array([0, 0, 1, 1]), ("red", "green", "blue"))


def test_drawn_signs_are_told_apart_from_images():
    assert "- and 200 signs of each class that the package draws" in of(
        {"training": TRAINING}, recipe={"add_synthetic": 200}
    )
    assert "that the package draws" not in of({"training": TRAINING}, recipe={"add_synthetic": 0})


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
    ):
        assert words in text, words
    assert "green: 66.7 %, 2" in text
    assert "Not evaluated, for want of validation images: blue" in text


def test_calibration_and_the_threshold():
    text = of({"training": TRAINING, "valid": VALID, "calibration": CALIBRATION}, report(), temperature=1.5)
    for words in ("Temperature 1.500", "6.40 % before, 3.10 % after", "0.9000", "93.0 %", "0.40 % wrong", "0.50 %"):
        assert words in text, words


def test_without_validation_there_is_no_figure():
    text = of({"training": TRAINING, "valid": None, "calibration": None}, reject_threshold=None)
    assert "Everything trained" in text
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


def test_many_classes_are_not_all_listed():
    text = of({}, classes=tuple(f"class {i}" for i in range(100)))
    assert "and 40 more" in text


def test_the_card_of_a_trained_model_is_its_config_in_words(model):
    text = (model / "README.md").read_text()
    found = read_config(model)
    assert text.startswith(f"# {found.architecture}, 3 classes")
    assert found.fingerprint[:16] in text
    assert f"n = {found.figures['valid']['n']}" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert [h for h in headings if "load" in h]
    assert [h for h in headings if "Licence" in h]
    assert len(headings) == len(set(headings)) == 7


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
    probabilities = np.eye(1000)[:2]
    text = card.render(
        config(classes=names, figures={"training": TRAINING, "valid": VALID}),
        Report.from_probabilities(probabilities, np.array([0, 1]), names),
    )
    assert "class 59 and 940 more" in text
    assert "Not evaluated, for want of validation images: class 2, " in text
    assert "class 61 and 938 more." in text


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
