from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from signsclf.training.settings import own_settings


def test_what_the_caller_set_does_not_reach_in_and_is_there_again():
    torch.set_default_dtype(torch.float64)
    try:
        with (
            torch.inference_mode(),
            torch.device("meta"),
            torch.autocast("cpu", torch.bfloat16),
            np.errstate(all="raise"),
        ):
            with own_settings():
                made = torch.ones(2, 2, requires_grad=True)
                (made @ made).sum().backward()
                assert (made.dtype, made.device.type, (made @ made).dtype) == (torch.float32, "cpu", torch.float32)
                assert made.grad is not None
                np.exp(np.float32(-1000))
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.ones(1).device.type == "meta"
            assert np.geterr()["under"] == "raise"
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_global_generators_go_on_where_they_were_after_a_failure_too():
    def draw():
        return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002

    def seed():
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002

    seed()
    expected = [draw(), draw()]
    seed()
    found = [draw()]
    with pytest.raises(KeyError), own_settings():
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        raise KeyError
    assert [*found, draw()] == expected
    assert torch.initial_seed() == 7
