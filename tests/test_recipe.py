from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tinysource import loaded_by

from signsclf.errors import SignsclfError
from signsclf.recipe import (
    PRESETS,
    Augment,
    Balance,
    BatchNorm,
    Device,
    Flip,
    Optimizer,
    Precision,
    Recipe,
    Solver,
    preset,
)
from signsclf.runs.resolve import Facts, choose_arch, resolve

SIGNS = Facts(
    n_train=30_000,
    n_classes=43,
    is_gtsrb=True,
    is_synthetic=False,
    median_side=40.0,
    native_size=None,
    device=Device.CPU,
    has_bf16=True,
)
PHOTOS = Facts(
    n_train=700,
    n_classes=3,
    is_gtsrb=False,
    is_synthetic=False,
    median_side=230.0,
    native_size=224,
    device=Device.CPU,
    has_bf16=False,
)


UNUSED = {"fold", "teacher", "teacher_weight", "teacher_temperature"}
"""What stays unset where nobody asks for it."""


def facts(**changes) -> Facts:
    return Facts(**{**PHOTOS.__dict__, **changes})


def settled(recipe: Recipe, known: Facts = PHOTOS) -> tuple[Recipe, dict[str, str]]:
    chosen, reasons = choose_arch(recipe, known.is_synthetic, known.n_train, known.median_side)
    resolved, more = resolve(chosen, known)
    return resolved, {**reasons, **more}


def test_json_round_trip_keeps_every_field_and_type():
    recipe = Recipe(
        arch="resnet18",
        lr=0.01,
        optimizer=Optimizer.SGD,
        balance=Balance.EFFECTIVE,
        augment=Augment.STRONG,
        flip=Flip.NEVER,
        precision=Precision.BF16,
        device=Device.CPU,
        seed=2**32 - 1,
    )
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert isinstance(again.balance, Balance)
    assert json.loads(recipe.to_json())["balance"] == "effective"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_resolve(name):
    recipe = preset(name)
    assert Recipe.from_json(recipe.to_json()) == recipe
    resolved, _ = settled(recipe)
    assert {name for name, value in resolved.to_dict().items() if value is None} == UNUSED


def test_teachers_are_several_names_or_none(tmp_path):
    assert Recipe(teacher="big").teacher == Recipe(teacher=["big"]).teacher == ("big",)
    assert Recipe(teacher=[]).teacher is None
    recipe = Recipe(teacher=(tmp_path / "a", "b"))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.without_places().teacher == ("a", "b")
    resolved, reasons = settled(recipe)
    assert 0 < resolved.teacher_weight <= 1 and resolved.teacher_temperature > 0
    assert {"teacher_weight", "teacher_temperature"} <= set(reasons)
    with pytest.raises(SignsclfError, match="--teacher-weight: there is no teacher"):
        settled(Recipe(teacher_weight=0.5))
    for known in (SOLVED, BY_HAND):
        with pytest.raises(SignsclfError, match="--teacher b: not for x"):
            settled(Recipe(arch="x", teacher="b"), known)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(SignsclfError, match="'slow' is none of transfer, fast, best, photos, small-photos"):
        preset("slow")


def test_unknown_field_is_named():
    with pytest.raises(SignsclfError, match=r"unknown field 'epoch'; known are .*epochs"):
        Recipe.from_dict({"epoch": 3})


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", "[" * 100_000])
def test_what_is_not_a_recipe_is_refused_in_one_line(text):
    with pytest.raises(SignsclfError) as caught:
        Recipe.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 7),
        ("size", 1025),
        ("size", 32.0),
        ("epochs", -1),
        ("epochs", True),
        ("batch_size", 1),
        ("batch_size", 10**400),
        ("lr", 0),
        ("lr", "fast"),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr_ratio", 0.5),
        ("weight_decay", -0.1),
        ("label_smoothing", 0.6),
        ("label_smoothing", None),
        ("ema_decay", 1),
        ("valid_fraction", 0.95),
        ("valid_fraction", None),
        ("fold", "0/5"),
        ("fold", "6/5"),
        ("fold", "1/1"),
        ("fold", "1/1001"),
        ("fold", "2"),
        ("fold", "1/5 "),
        ("fold", "１/5"),
        ("fold", 0.2),
        ("patience", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", None),
        ("balance", "all"),
        ("balance", None),
        ("balance", []),
        ("flip", "sideways"),
        ("precision", "fp8"),
        ("arch", ""),
        ("weights", 3),
        ("teacher", 3),
        ("teacher", [""]),
        ("teacher_weight", 1.5),
        ("teacher_temperature", 0),
    ],
)
def test_values_out_of_range_name_their_flag_in_one_line(field, value):
    with pytest.raises(SignsclfError) as caught:
        Recipe(**{field: value})
    message = str(caught.value)
    assert message.startswith("--" + field.replace("_", "-") + ":")
    assert "\n" not in message


def test_edges_of_the_ranges_are_within():
    Recipe(size=8, epochs=10_000, batch_size=2, lr=100, label_smoothing=0.5, valid_fraction=0.9, seed=0)
    Recipe(size=1024, epochs=0, freeze_epochs=1, lr="auto", valid_fraction=0)


def test_a_fold_decides_the_share_held_out():
    recipe = Recipe(fold="3/4")
    assert recipe.valid_fraction == 0.25
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.replace(fold="1/4").fold == "1/4"
    for share in (0, 0.3):
        with pytest.raises(SignsclfError, match=r"--fold: .*--valid-fraction"):
            Recipe(fold="3/4", valid_fraction=share)


def test_no_epochs_at_all_is_refused():
    with pytest.raises(SignsclfError, match="trains nothing"):
        Recipe(epochs=0)


def test_text_becomes_a_choice():
    assert Recipe(balance="full").balance is Balance.FULL


@pytest.mark.parametrize("known", [SIGNS, PHOTOS, facts(n_train=1), facts(is_synthetic=True)])
@pytest.mark.parametrize("start", [Recipe(), Recipe(arch="signnet"), Recipe(arch="resnet34", weights="none")])
def test_resolve_sets_every_field_and_gives_a_reason_for_each(known, start):
    resolved, reasons = settled(start, known)
    before, after = start.to_dict(), resolved.to_dict()
    assert {name for name, value in after.items() if value is None} == UNUSED
    changed = {name for name in before if before[name] != after[name]}
    assert changed == set(reasons)
    assert all(reason.strip() for reason in reasons.values())


def test_what_the_user_set_stays():
    start = Recipe(
        arch="resnet18",
        weights="imagenet",
        size=48,
        epochs=2,
        samples=1_400,
        epoch_images=600,
        freeze_epochs=1,
        batch_size=16,
        shards=4,
        lr=0.5,
        lr_ratio=3,
        optimizer="sgd",
        weight_decay=0.1,
        batch_norm="train",
        ema_decay=0.5,
        augment="light",
        outliers=0.1,
        flip="never",
        add_synthetic=0,
        precision="fp32",
        device="cpu",
    )
    resolved, reasons = settled(start)
    assert resolved == start
    assert reasons == {}


def test_the_architecture_without_pretrained_weights_starts_from_none():
    assert settled(Recipe(arch="signnet"), facts(native_size=None))[0].weights == "none"
    assert settled(Recipe())[0].weights == "imagenet"
    assert settled(Recipe(), facts(is_synthetic=True))[0].arch == "signnet"


@pytest.mark.parametrize("arch", ["signnet", "signnet-fast"])
def test_traffic_signs_are_learnt_from_rendered_ones_that_come_with_the_package(arch):
    resolved, reasons = settled(Recipe(arch=arch), SIGNS)
    assert resolved.weights == "synthetic" and "rendered signs" in reasons["weights"]
    scratch = settled(Recipe(arch=arch, weights="none"), SIGNS)[0]
    same = ("size", "optimizer", "weight_decay", "batch_norm", "freeze_epochs", "lr_ratio", "add_synthetic", "outliers")
    assert [getattr(resolved, name) for name in same] == [getattr(scratch, name) for name in same]
    assert resolved.samples == scratch.samples / (2 if arch == "signnet-fast" else 1)
    for known in (facts(native_size=None), replace(SIGNS, is_synthetic=True)):
        assert settled(Recipe(arch=arch), known)[0].weights == "none"
    assert settled(Recipe(arch=arch, add_synthetic=0), SIGNS)[0].weights == "none"
    assert settled(Recipe(arch="simple-cnn"), SIGNS)[0].weights == "none"
    assert settled(Recipe(weights="synthetic"), facts(native_size=None))[0].arch == "signnet"
    assert settled(Recipe(arch=arch, weights="synthetic", freeze_epochs=2), SIGNS)[0].freeze_epochs == 2
    assert settled(Recipe(arch=arch, freeze=True), replace(SIGNS, solver=Solver.PROBE))[0].weights == "synthetic"


def test_outliers_are_for_signs_learnt_by_small_networks():
    assert settled(Recipe(arch="signnet"), SIGNS)[0].outliers == 0.08
    assert settled(Recipe(arch="signnet", weights="none"), SIGNS)[0].outliers == 0.08
    assert settled(Recipe(arch="signnet", outliers=0.0), SIGNS)[0].outliers == 0
    others = (
        *((Recipe(), PHOTOS), (Recipe(arch="signnet"), facts(native_size=None))),
        *((preset("transfer"), replace(SIGNS, native_size=224)), (Recipe(), replace(SIGNS, is_synthetic=True))),
        (Recipe(arch="signnet", weights="m"), SIGNS),
    )
    for recipe, known in others:
        assert settled(recipe, known)[0].outliers == 0
    assert settled(Recipe(outliers=0.2))[0].outliers == 0.2


def test_pretrained_takes_its_native_size_for_large_photos_and_less_for_small_images():
    assert settled(Recipe())[0].size == 224
    assert 64 <= settled(Recipe(), facts(median_side=40.0))[0].size < 224
    assert settled(Recipe(arch="signnet"), SIGNS)[0].size == 32


def test_few_images_bound_the_batch():
    resolved, reasons = settled(Recipe(batch_size=64), facts(n_train=10))
    assert resolved.batch_size == 10
    assert "10 training images" in reasons["batch_size"]


def test_mirroring_follows_the_classes():
    assert settled(Recipe(), SIGNS)[0].flip is Flip.MAP
    assert settled(Recipe())[0].flip is Flip.NEVER
    with pytest.raises(SignsclfError, match="mirror map is GTSRB's"):
        settled(Recipe(flip="map"))


def test_signs_that_are_rendered_anew_are_not_changed_once_more():
    assert settled(Recipe(), facts(is_gtsrb=True, is_synthetic=True))[0].augment is Augment.NONE
    assert settled(Recipe(), SIGNS)[0].augment is Augment.STANDARD
    assert settled(preset("transfer"), SIGNS)[0].augment is Augment.CAMERA
    assert settled(preset("transfer"), PHOTOS)[0].augment is Augment.STANDARD
    assert settled(Recipe(augment="camera"), facts(is_gtsrb=True, is_synthetic=True))[0].augment is Augment.CAMERA


def test_synthetic_signs_are_added_to_real_ones_of_gtsrb_only():
    assert settled(Recipe(arch="signnet", add_synthetic=40), SIGNS)[0].add_synthetic == 40
    assert settled(Recipe(arch="signnet"), SIGNS)[0].add_synthetic == 500
    assert settled(Recipe(arch="signnet"), replace(SIGNS, n_train=43 * 300))[0].add_synthetic == 300
    assert settled(Recipe(arch="signnet"), replace(SIGNS, n_train=43 * 100))[0].add_synthetic == 200
    assert settled(Recipe(arch="signnet"), replace(SIGNS, n_train=430))[0].add_synthetic == 50
    assert settled(Recipe(arch="signnet"), replace(SIGNS, n_train=34))[0].add_synthetic == 3
    assert settled(preset("fast"), SIGNS)[0].add_synthetic == 200
    assert settled(Recipe(arch="resnet34", weights="imagenet"), SIGNS)[0].add_synthetic == 200
    for known in (PHOTOS, replace(SIGNS, solver=Solver.NUMPY), replace(SIGNS, is_synthetic=True)):
        assert settled(Recipe(arch="resnet34"), known)[0].add_synthetic == 0
    assert settled(Recipe(arch="resnet34", weights="drawn"), SIGNS)[0].add_synthetic == 0
    with pytest.raises(SignsclfError, match="--add-synthetic: these classes are not GTSRB's"):
        settled(Recipe(add_synthetic=1))
    with pytest.raises(SignsclfError, match="--add-synthetic: all of these signs are synthetic"):
        settled(Recipe(add_synthetic=1), facts(is_synthetic=True))


def test_precision_follows_the_device():
    assert settled(Recipe(), facts(has_bf16=True))[0].precision is Precision.BF16
    assert settled(Recipe())[0].precision is Precision.FP32
    assert settled(Recipe(), facts(device=Device.CUDA))[0].precision is Precision.FP16
    for device in (Device.CPU, Device.MPS):
        with pytest.raises(SignsclfError, match=r"--precision fp16: .*CUDA"):
            settled(Recipe(precision="fp16"), facts(device=device))


def test_importing_it_loads_nothing_heavy():
    assert loaded_by("import signsclf.recipe", "torch", "fastai", "pandas", "matplotlib", "numpy") == []


# -- what suits an architecture --------------------------------------------------------------------------------------

SOLVED = facts(native_size=None, largest_size=64, solver=Solver.LEAST_SQUARES)
BY_HAND = facts(native_size=None, largest_size=64, solver=Solver.NUMPY)


def test_enough_small_images_are_learnt_from_scratch_unless_weights_are_given():
    assert settled(Recipe(), SIGNS)[0].arch == "signnet"
    assert settled(Recipe(), facts(n_train=1_000, median_side=32.0))[0].arch == "resnet34"
    assert settled(Recipe(), facts(n_train=9_000, median_side=200.0))[0].arch == "resnet34"
    assert settled(Recipe(weights="imagenet"), facts(n_train=9_000, median_side=32.0))[0].arch == "resnet34"


def test_how_long_follows_from_how_many_images_there_are_and_whether_they_are_synthetic():
    few, synthetic = facts(n_train=5_000, native_size=None), replace(SIGNS, n_train=8_000, is_synthetic=True)
    scratch = preset("fast").replace(weights="none")
    assert [settled(scratch, known)[0].epochs for known in (SIGNS, few, synthetic)] == [2, 15, 38]
    assert [settled(preset("fast"), known)[0].epochs for known in (SIGNS, few, synthetic)] == [1, 15, 38]
    assert [settled(Recipe(arch="signnet"), known)[0].epochs for known in (SIGNS, few, synthetic)] == [6, 48, 125]
    assert settled(preset("fast"), SIGNS)[0].augment is Augment.LIGHT


@pytest.mark.parametrize("samples", [30_000, 50_000, 77_201])
def test_epochs_are_shortened_to_come_to_the_samples(samples):
    known = facts(n_train=20_000, native_size=None)
    resolved, reasons = settled(Recipe(arch="signnet", samples=samples), known)
    assert 0 < resolved.epoch_images <= 20_000
    assert resolved.epoch_images % resolved.batch_size == 0
    assert samples <= resolved.epochs * resolved.epoch_images < samples + resolved.epochs * resolved.batch_size
    assert reasons["epoch_images"] == f"{samples:,} images in all"
    assert settled(resolved, known) == (resolved, {})


def test_synthetic_signs_come_to_all_the_samples_that_are_asked_for():
    known = replace(SIGNS, n_train=8_000, is_synthetic=True)
    resolved = settled(preset("fast").replace(samples=1_200_000), known)[0]
    assert resolved.epochs * (resolved.epoch_images or 8_000) >= 1_200_000


def test_epochs_of_a_length_that_is_asked_for_come_to_the_samples():
    known = facts(n_train=20_000, native_size=None)
    assert settled(Recipe(arch="signnet", samples=77_201, epoch_images=7_000), known)[0].epochs == 12
    # The most that few images are repeated is of images, however long the epochs are.
    most = settled(Recipe(arch="signnet", samples=10**9), known)[0].epochs * 20_000
    assert settled(Recipe(arch="signnet", samples=10**9, epoch_images=500), known)[0].epochs * 500 == most
    few, _ = settled(Recipe(arch="signnet", samples=900, epoch_images=30), known)
    assert (few.epochs, few.batch_size) == (30, 30)
    with pytest.raises(SignsclfError, match="--epoch-images: 1 is too few"):
        Recipe(epoch_images=1)


def test_a_schedule_is_as_short_as_what_it_sees_not_as_its_epochs():
    scratch = preset("fast").replace(weights="none")
    short, long = (settled(scratch.replace(epoch_images=n), SIGNS)[0] for n in (None, 4_000))
    assert (short.epochs, long.epochs) == (2, 18)
    assert short.augment is long.augment is Augment.LIGHT
    for weights, pace in (("none", 1), ("synthetic", 0.5)):
        assert settled(Recipe(arch="signnet", weights=weights), SIGNS)[0].lr == 0.2 * pace
        assert settled(Recipe(arch="signnet", weights=weights, epochs=3), SIGNS)[0].lr == 0.3 * pace


def test_epochs_that_are_asked_for_are_whole():
    for recipe in (Recipe(arch="signnet", epochs=3), Recipe(arch="signnet", samples=40_000)):
        assert settled(recipe, facts(n_train=20_000, native_size=None))[0].epoch_images == 0


def test_the_size_chosen_is_one_that_the_architecture_runs_at():
    assert settled(Recipe(weights="none"), facts(median_side=32.0, smallest_size=63))[0].size == 64
    assert settled(Recipe(weights="none"), facts(median_side=32.0, smallest_size=32))[0].size == 32
    assert settled(Recipe(arch="mlp"), facts(native_size=None, largest_size=64))[0].size == 64
    resolved, reasons = settled(Recipe(arch="alexnet", weights="none"), facts(median_side=32.0, smallest_size=63))
    assert reasons["size"] == "the smallest that alexnet runs at"
    assert resolved.size == 64


def test_photos_keep_the_statistics_and_first_layers_of_imagenet_and_signs_do_not():
    assert settled(Recipe())[0].batch_norm is BatchNorm.KEEP
    assert settled(Recipe(weights="imagenet"), facts(is_gtsrb=True))[0].batch_norm is BatchNorm.TRAIN
    assert [settled(Recipe(), photos)[0].lr_ratio for photos in (facts(), facts(is_gtsrb=True))] == [100, 1]
    assert settled(Recipe(weights="drawn"), facts(is_gtsrb=True))[0].lr_ratio == 5
    with pytest.raises(SignsclfError, match=r"--batch-norm keep: .*from scratch"):
        settled(Recipe(weights="none", batch_norm="keep"))


@pytest.mark.parametrize("known", [SOLVED, BY_HAND])
def test_a_network_without_torchs_gradients_resolves_and_resolves_again(known):
    resolved, reasons = settled(Recipe(arch="x"), known)
    unused = UNUSED | {*(("lr", "optimizer") if known is SOLVED else ())}
    assert {name for name, value in resolved.to_dict().items() if value is None} == unused
    assert set(reasons) >= {"epochs", "size", "weights", "precision"}
    # A run that is gone on with starts from the resolved recipe.
    assert settled(Recipe.from_json(resolved.to_json()), known) == (resolved, {})


@pytest.mark.parametrize(
    ("known", "field", "value"),
    [
        (SOLVED, "lr", 0.1),
        (SOLVED, "optimizer", "sgd"),
        (SOLVED, "patience", 3),
        (SOLVED, "ema_decay", 0.9),
        (SOLVED, "weights", "w.pth"),
        (SOLVED, "precision", "bf16"),
        (SOLVED, "device", "cuda"),
        (BY_HAND, "lr", "auto"),
        (BY_HAND, "optimizer", "adam"),
        (BY_HAND, "lr_ratio", 2.0),
        (BY_HAND, "freeze_epochs", 1),
        (BY_HAND, "batch_norm", "keep"),
        (BY_HAND, "precision", "bf16"),
    ],
)
def test_what_makes_no_sense_for_it_is_refused_in_one_line(known, field, value):
    with pytest.raises(SignsclfError) as caught:
        settled(Recipe(arch="the-rung", **{field: value}), known)
    assert str(caught.value).startswith(f"--{field.replace('_', '-')} {value}: not for the-rung: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "is_normalised", "rate"),
    [("simple-cnn", False, 2e-3), ("mlp", False, 2e-3), ("alexnet", False, 4e-4), ("resnet18", True, 2e-3)],
)
def test_from_scratch_only_deep_networks_without_batch_norm_start_at_a_low_rate(arch, is_normalised, rate):
    chosen = settled(Recipe(arch=arch, weights="none"), facts(is_normalised=is_normalised))[0]
    assert (chosen.lr, chosen.optimizer) == (rate, Optimizer.ADAM)


def test_freezing_from_scratch_is_refused():
    with pytest.raises(SignsclfError, match="nothing worth freezing"):
        resolve(Recipe(arch="signnet", weights="none", freeze_epochs=1), facts())


def test_a_batch_is_cut_into_one_shard_for_each_process_unless_asked_for():
    assert settled(Recipe())[0].shards == 1
    resolved, reasons = settled(Recipe(batch_size=16), facts(processes=2))
    assert (resolved.shards, reasons["shards"]) == (2, "one for each process")
    resolved, reasons = settled(Recipe(shards=8), facts(processes=2))
    assert resolved.shards == 8 and "shards" not in reasons
    assert settled(resolved, facts(processes=4)) == (resolved, {})


def test_a_batch_that_is_chosen_is_a_multiple_of_the_shards():
    resolved, reasons = settled(Recipe(shards=8), facts(n_train=90, native_size=None))
    assert resolved.batch_size % 8 == 0 and resolved.batch_size <= 90
    few, reasons = settled(Recipe(shards=8, arch="signnet"), facts(n_train=60, native_size=None))
    assert few.batch_size == 56 and reasons["batch_size"].endswith("; a multiple of 8 shards")


@pytest.mark.parametrize(
    ("asked", "known", "said"),
    [
        (
            {"shards": 8},
            facts(processes=3),
            "3 processes: they cannot share the 8 shards of a batch evenly; start 1, 2",
        ),
        ({"shards": 1}, facts(processes=2), "2 processes: the batches are whole ones (--shards 1), for one process"),
        ({"shards": 3, "batch_size": 16}, facts(), "--shards 3: a batch of 16 images is not cut evenly"),
        ({"shards": 16, "batch_size": 16}, facts(), "--shards 16: a batch of 16 images is not cut evenly"),
        ({"shards": 2, "precision": "fp16"}, facts(device=Device.CUDA), "--precision fp16: not for several processes"),
        ({"shards": 2}, SOLVED, "--shards 2: not for"),
        ({}, replace(BY_HAND, processes=2), "not trained by torch's gradients, so in one process only"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_line(asked, known, said):
    with pytest.raises(SignsclfError) as caught:
        settled(Recipe(arch="signnet", **asked), known)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_without_bf16_a_gpu_trains_shards_in_fp32():
    known = facts(device=Device.CUDA, has_bf16=False)
    assert settled(Recipe(), known)[0].precision is Precision.FP16
    assert settled(Recipe(shards=2), known)[0].precision is Precision.FP32
