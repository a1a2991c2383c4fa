from __future__ import annotations

import json

import pytest
from batches import write_batch, write_images
from tinymodel import write_folder

from signsclf.errors import ModelError, SignsclfError
from signsclf.scale.plan import MANIFEST, PLAN, check_model, make_plan, open_plan


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = write_batch(tmp_path)
    assert open_plan(plan.folder) == plan
    assert (plan.rows, plan.shards, plan.rows_of(4)) == (71, 5, 7)


def test_its_digest_is_of_what_decides_the_results(tmp_path):
    plan = write_batch(tmp_path)
    moved = open_plan(plan.folder, tmp_path / "elsewhere")
    assert moved.digest == plan.digest and moved.model != plan.model
    assert make_plan([str(tmp_path / "images")], tmp_path / "b", tmp_path / "model", top_k=1).digest != plan.digest


def test_a_folder_with_content_is_left_alone(tmp_path):
    plan = write_batch(tmp_path)
    with pytest.raises(SignsclfError, match="not empty"):
        write_batch(tmp_path)
    assert open_plan(plan.folder) == plan


@pytest.mark.parametrize("source", ["nowhere", "empty", "model", "none*.png"])
def test_a_source_without_images_is_told_and_nothing_is_left(tmp_path, source):
    write_folder(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SignsclfError, match=source.replace("*", r"\*")):
        make_plan([str(tmp_path / source)], tmp_path / "out", tmp_path / "model")
    assert not (tmp_path / "out").exists()


def test_images_named_twice_are_told_and_listed_once(tmp_path):
    write_folder(tmp_path / "model")
    images, told = write_images(tmp_path / "images", 3), []
    plan = make_plan([str(images), str(images / "*.png")], tmp_path / "out", tmp_path / "model", tell=told.append)
    assert plan.rows == 4 and told == ["4 images were named more than once; each is predicted once"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "rows": 3}'])
def test_a_damaged_plan_is_one_line(tmp_path, text):
    plan = write_batch(tmp_path)
    (plan.folder / PLAN).write_text(text)
    with pytest.raises(SignsclfError, match=r"plan\.json") as error:
        open_plan(plan.folder)
    assert "\n" not in str(error.value)


def test_another_manifest_is_refused(tmp_path):
    plan = write_batch(tmp_path)
    with (plan.folder / MANIFEST).open("ab") as file:
        file.write(b"1")
    with pytest.raises(SignsclfError, match="not the one of the plan"):
        open_plan(plan.folder)


def test_no_plan_names_the_command(tmp_path):
    with pytest.raises(SignsclfError, match="signsclf batch plan"):
        open_plan(tmp_path)


def test_another_model_is_refused(tmp_path):
    plan = write_batch(tmp_path)
    write_folder(tmp_path / "other", reject_threshold=0.5)
    with pytest.raises(ModelError, match="another model than the plan's"):
        check_model(open_plan(plan.folder, tmp_path / "other"))
    check_model(open_plan(plan.folder, tmp_path / "model"))


def test_secrets_of_the_machine_are_not_in_it(tmp_path):
    plan = write_batch(tmp_path)
    assert set(json.loads((plan.folder / PLAN).read_text())) == {
        "format", "model", "model_digest", "top_k", "max_pixels", "shard_rows", "rows", "manifest", "sources"
    }  # fmt: skip
