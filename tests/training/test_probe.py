from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from drawnshapes import CLASSES, SIZE, loaders, recipe
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tinysource import Watched
from torch import nn

from signsclf.errors import SignsclfError
from signsclf.training import probe as probing
from signsclf.training.architectures import create, find_architecture
from signsclf.training.probe import PENALTIES, ProbeData, ProbeFit

FROZEN = {
    "arch": "signnet",
    "freeze": True,
    "lr": None,
    "optimizer": None,
    "epochs": 1,
    "flip": "never",
    "weight_decay": None,
}
PLAIN = {**FROZEN, "label_smoothing": 0.0, "balance": "none"}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create(find_architecture("signnet"), len(CLASSES), SIZE)


def probe(folder=None, model=None, observer=None, stop=None, groups=None, **changes) -> ProbeFit:
    of = recipe(**{**PLAIN, **changes})
    made = loaders(of)
    n = len(made.train.source.labels)
    data = ProbeData(
        inputs=[f"digest {row}" for row in range(n)], groups=groups or [f"{row}" for row in range(n)], folder=folder
    )
    return ProbeFit(made, model or network(), of, data=data, observer=observer, stop=stop)


def features_of(fit: ProbeFit, rows: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Of the network without its last layer, by other means."""
    body = network().eval()
    body[-1] = nn.Identity()
    with torch.no_grad():
        x = torch.cat([x for x, _ in fit.loaders.valid.in_order(rows)])
        return body(x.flip(-1) if mirrored else x).numpy()


@pytest.mark.parametrize("flip", ["never", "always"])
def test_it_is_logistic_regression_on_the_features(flip):
    fit = probe(weight_decay=0.05, flip=flip)
    result = fit.run()
    train = fit.loaders.train
    views = (False, True) if flip == "always" else (False,)
    x = np.concatenate([features_of(fit, train.rows, view) for view in views])
    y = np.tile(train.source.targets[train.rows], len(x) // len(train.rows))
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=1 / (0.05 * len(x)), tol=1e-8, max_iter=5_000).fit(scaler.transform(x), y)
    held_out = features_of(fit, fit.loaders.valid.rows)
    ours = nn.functional.linear(torch.from_numpy(held_out), *list(result.state.values())[-2:]).softmax(1)
    np.testing.assert_allclose(ours, theirs.predict_proba(scaler.transform(held_out)), atol=2e-3)
    # Nothing but the last layer has moved.
    before = network().state_dict()
    moved = [name for name, tensor in result.state.items() if not torch.equal(tensor, before[name])]
    assert moved == list(before)[-2:]
    assert result.history[0]["accuracy"] == pytest.approx(
        (ours.argmax(1).numpy() == fit.loaders.valid.source.targets[fit.loaders.valid.rows]).mean()
    )


def test_classes_are_balanced_by_their_weight_in_the_loss():
    few = {"weight_decay": 0.05, "balance": "full"}
    fit = probe(**few)
    weights = fit.run().state
    plain = probe(weight_decay=0.05).run().state
    counts = np.bincount(fit.loaders.train.source.targets[fit.loaders.train.rows])
    last = list(weights)[-1]
    assert torch.equal(weights[last], plain[last]) == (len(set(counts)) == 1)


def test_a_penalty_is_chosen_by_whole_groups_and_told():
    watched = Watched()
    fit = probe(observer=watched)
    first = fit.run().state
    [told] = [line for line in watched.lines if line.startswith("probe: ")]
    penalty = float(told.split("penalty of ")[1].split()[0])
    assert penalty in PENALTIES
    again = probe(weight_decay=penalty).run().state
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_features_are_computed_once_for_each_network_and_set_of_images(tmp_path, monkeypatch):
    first = probe(tmp_path).run().state
    assert len(list(tmp_path.glob("*/features.npy"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(ProbeFit, "_embedded", None)
        again = probe(tmp_path, weight_decay=None).run().state
    assert all(torch.equal(first[name], again[name]) for name in first)
    # What a probe does to the last layer makes no other features.
    trained = network()
    trained.load_state_dict(first)
    with monkeypatch.context() as patched:
        patched.setattr(ProbeFit, "_embedded", None)
        probe(tmp_path, model=trained).run()
    probe(tmp_path, model=network(seed=1)).run()
    assert len(list(tmp_path.glob("*/features.npy"))) == 2
    probe(tmp_path, flip="always").run()
    assert len(list(tmp_path.glob("*/features.npy"))) == 3
    damaged = min(tmp_path.glob("*/features.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert probe(tmp_path, flip="always").run().history


def test_it_stops_on_request_and_keeps_no_half_of_the_features(tmp_path):
    stop = threading.Event()
    stop.set()
    result = probe(tmp_path, stop=stop).run()
    assert result.stopped
    assert not list(tmp_path.rglob("features.npy"))


def test_what_is_too_large_to_hold_is_read_in_chunks_to_the_same_end(monkeypatch):
    expected = probe(weight_decay=0.05).run().state
    monkeypatch.setattr(probing, "_HELD", 0)
    monkeypatch.setattr(probing, "_CHUNK", 7)
    found = probe(weight_decay=0.05).run().state
    assert all(torch.allclose(expected[name], found[name], atol=1e-4) for name in found)


def test_where_nothing_can_be_kept_the_features_are_of_this_run_alone(tmp_path):
    (tmp_path / "file").write_text("")
    expected = probe().run().state
    found = probe(tmp_path / "file" / "cache").run().state
    assert all(torch.equal(expected[name], found[name]) for name in found)


def test_a_network_without_a_linear_layer_at_its_end_is_refused():
    model = network()
    model[-1] = nn.Linear(model[-1].in_features, len(CLASSES), bias=False)
    with pytest.raises(SignsclfError, match="--arch signnet: its last layer is not linear with a bias"):
        probe(model=model)
