"""Distillation from model folders: recorded, resumed, and honest about what a teacher has seen."""

from __future__ import annotations

import json
import shutil

import pytest
from tinysource import TINY, Watched, draw_source, flags, one_thread, weights

from signsclf.choices import SplitName
from signsclf.errors import ModelError
from signsclf.evaluation.evaluate import evaluate
from signsclf.files import file_hash
from signsclf.model.folder import read_config
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.runs.export import export_run
from signsclf.runs.train import resume, train

SHORT = Recipe(**{**TINY, "epochs": 1})


class Said(Observer):
    """What was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def taught(source, out, *teachers, recipe=SHORT, **options):
    said = Said()
    folder = train(source, out, recipe.replace(teacher=[str(t) for t in teachers]), observer=said, **options).folder
    return folder, "\n".join(said.lines)


@pytest.fixture(scope="module")
def student(model, source, tmp_path_factory):
    """A network that the session's model has taught, on the same split."""
    with one_thread():
        return taught(source, tmp_path_factory.mktemp("taught") / "small", model)


def test_a_teacher_is_recorded_by_name_and_digest_and_not_by_place(student, model):
    folder, _ = student
    pinned = f"{model.name}@sha256:{file_hash(model / 'model.safetensors')}"
    assert read_config(folder).recipe["teacher"] == [pinned]
    assert json.loads((folder / "run" / "recipe.json").read_text())["teacher"] == [pinned]
    card = (folder / "README.md").read_text("utf-8")
    assert f"teacher {pinned.replace('_', chr(92) + '_')}" in card and f"--teacher={pinned}" in card
    for path in (folder / "README.md", folder / "config.json", folder / "run" / "recipe.json"):
        assert str(model.parent) not in path.read_text("utf-8")


def test_a_teacher_changes_the_weights(student, source, tmp_path):
    plain = train(source, tmp_path / "plain", SHORT).folder
    assert weights(plain) != weights(student[0])


def test_the_same_split_is_new_to_both(student):
    folder, said = student
    assert read_config(folder).figures["valid"]["n_seen_by_teacher"] == 0
    assert "teacher" not in said
    assert "flatter" not in (folder / "README.md").read_text("utf-8")


def test_images_that_a_teacher_has_seen_are_counted_whatever_its_size(source, model, tmp_path):
    small = train(source, tmp_path / "small", SHORT.replace(size=12, seed=5)).folder
    found = {}
    for teacher in (small, model):
        folder, said = taught(source, tmp_path / f"by {teacher.name}", teacher, recipe=SHORT.replace(seed=3))
        held = set(evaluate(folder, source).names)
        trained = set(evaluate(teacher, source, split=SplitName.TRAIN).names)
        found[teacher] = read_config(folder).figures["valid"]["n_seen_by_teacher"]
        assert found[teacher] == len(held & trained) > 0
        assert f"warning: {found[teacher]} of the 30 validation images trained a teacher" in said
        assert f"trained on {found[teacher]} of them" in (folder / "README.md").read_text("utf-8")


def test_a_teacher_that_does_not_tell_may_have_seen_all(source, model, student, tmp_path):
    bare = export_run(model, tmp_path / "bare", bare=True).folder
    folder, said = taught(source, tmp_path / "by bare", bare)
    assert read_config(folder).figures["valid"]["n_seen_by_teacher"] is None
    assert "does not tell all the images" in said
    assert "may have been trained on some" in (folder / "README.md").read_text("utf-8")
    # What it was taught by may have seen them in its stead.
    _, said = taught(source, tmp_path / "second", folder)
    assert "does not tell all the images" in said
    assert "teacher" not in taught(source, tmp_path / "third", student[0])[1]


def test_a_model_whose_teacher_has_seen_what_it_held_out_is_no_hold_out(source, model, student, tmp_path):
    every = Recipe(**TINY, valid_fraction=0)
    whole = train(source, tmp_path / "whole", every, rehearsal=False).folder
    folder, _ = taught(source, tmp_path / "all", whole, recipe=SHORT.replace(valid_fraction=0), rehearsal=False)
    flattering, _ = taught(source, tmp_path / "flattering", whole)
    with pytest.raises(ModelError, match="would flatter"):
        export_run(folder, tmp_path / "out", holdouts=[flattering], source=source)
    # Of teachers that held the same images out each model has its own.
    config = read_config(export_run(folder, tmp_path / "out", holdouts=[student[0]], source=source).folder)
    assert config.figures["holdouts"]["n"] == 30


def test_a_rehearsal_says_that_the_teacher_knows_what_it_holds_out(source, model, tmp_path):
    whole = train(source, tmp_path / "whole", Recipe(**TINY, valid_fraction=0), rehearsal=False).folder
    folder, _ = taught(source, tmp_path / "all", whole, recipe=SHORT.replace(valid_fraction=0))
    note = read_config(folder).figures["calibration"]["note"]
    assert note.endswith("they flatter, as 120 of them trained its teacher")


def test_a_resumed_run_ends_the_same_and_asks_for_its_teacher(source, model, tmp_path):
    teacher = shutil.copytree(model, tmp_path / "teacher")
    recipe = Recipe(**TINY)
    whole, _ = taught(source, tmp_path / "whole", teacher, recipe=recipe)
    watched = Watched(stop_after=1)
    asked = recipe.replace(teacher=str(teacher))
    assert train(source, tmp_path / "broken", asked, observer=watched, stop=watched.stop).stopped
    teacher.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"--teacher .*no such model folder.*put back the one that") as caught:
        resume(tmp_path / "broken")
    assert "\n" not in str(caught.value)
    (tmp_path / "elsewhere").rename(teacher)
    assert weights(resume(tmp_path / "broken").folder) == weights(whole)


def test_a_run_whose_images_are_gone_is_still_taught(model, tmp_path):
    own = draw_source(tmp_path / "shapes")
    watched = Watched(stop_after=1)
    asked = Recipe(**TINY).replace(teacher=str(model))
    assert train(own, tmp_path / "m", asked, observer=watched, stop=watched.stop, cache=tmp_path / "cache").stopped
    shutil.rmtree(own)
    folder = resume(tmp_path / "m", cache=tmp_path / "cache").folder
    assert read_config(folder).figures["valid"]["n_seen_by_teacher"] == 0


def test_the_command_takes_several(cli, source, model, tmp_path):
    twin = shutil.copytree(model, tmp_path / "twin")
    ran = cli("train", source, "--out", tmp_path / "m", "--teacher", model, "--teacher", twin, *flags(epochs=1))
    assert ran.code == 0, ran.err
    assert len(read_config(tmp_path / "m").recipe["teacher"]) == 2
    assert "teacher_weight 0.9" in " ".join(ran.err.split()).replace("teacher-weight", "teacher_weight")
    ran = cli("train", source, "--out", tmp_path / "n", "--teacher", tmp_path, *flags(epochs=1))
    assert ran.code == 2 and ran.complaint.startswith(f"signsclf: --teacher {tmp_path}: not a model folder")
    assert not (tmp_path / "n.partial").exists()
