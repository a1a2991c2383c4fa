"""The parts of a data set are told by the words of their folders' names, and classes are left alone."""

from __future__ import annotations

import pytest

from signsclf.data.splits import UNLABELLED, annotated_stem, is_annotation_folder, is_container, split_of, splits_of


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("train", "val", "test"),
        ("TRAIN", "Valid", "Testing"),
        ("training_set", "validation_set", "test_set"),
        ("trainset", "devset", "testset"),
        ("Train_images", "Val_images", "Test_images"),
        ("TrainImages", "EvalImages", "TestImages"),
        ("seg_train", "seg_val", "seg_test"),
        ("train2017", "val2017", "test2017"),
        ("training data", "dev", "testing data"),
        ("01-train", "02-valid", "03-test"),
        ("asl_alphabet_train", "asl_alphabet_val", "asl_alphabet_test"),
        ("BelgiumTSC_Training", "BelgiumTSC_Evaluation", "BelgiumTSC_Testing"),
        ("trainval", "development", "test1"),
    ],
)
def test_usual_names(train, valid, test):
    assert splits_of([train, valid, test]) == {train: "train", valid: "valid", test: "test"}
    assert splits_of([train, test, "masks"]) == {train: "train", test: "test"}


@pytest.mark.parametrize(
    "folders",
    [
        ["train station", "bus stop", "test drive"],
        ["cats_train", "dogs_test"],
        ["dev", "prod"],
        ["trains", "tests"],
        ["test data"],
        ["unlabeled", "labeled"],
        ["train_val"],
        ["train_masks", "test_labels"],
        ["evaluation", "contest"],
        [],
    ],
)
def test_names_that_are_classes(folders):
    assert splits_of(folders) == {}


def test_plain_names_count_alone_and_come_first():
    assert splits_of(["Test"]) == {"Test": "test"}
    assert splits_of(["train", "valid", "dev", "train_set"]) == {"train": "train", "valid": "valid"}
    assert [split_of(name) for name in ("Training", "dev", "test_set")] == ["train", None, None]


@pytest.mark.parametrize("name", ["pred", "seg_pred", "Predictions", "unlabeled", "unlabelled_images"])
def test_unlabelled_beside_a_labelled_part(name):
    assert splits_of(["train", name]) == {"train": "train", name: UNLABELLED}


def test_images_and_annotations():
    for name in ("images", "JPEGImages", "img_data", "Photos"):
        assert is_container(name)
    for name in ("cats", "data", "imagery of cats"):
        assert not is_container(name)
    for name in ("masks", "SegmentationClass", "annotations", "labels"):
        assert is_annotation_folder(name, ["images", name])
        assert not is_annotation_folder(name, ["cats", name])
    assert not is_annotation_folder("with_mask", ["images", "with_mask"])


@pytest.mark.parametrize(
    ("stem", "image"),
    [
        ("scan (1)_mask", "scan (1)"),
        ("scan_1-Segmentation_2", "scan_1"),
        ("0001_label", "0001"),
        ("unmask", None),
        ("mask", None),
        ("mask_1", None),
        ("cat_1", None),
        ("", None),
    ],
)
def test_files_called_as_annotations(stem, image):
    assert annotated_stem(stem) == image


def test_a_name_without_end():
    assert splits_of(["train", "set" * 20_000]) == {"train": "train"}
