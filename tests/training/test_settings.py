from __future__ import annotations

import torch

from signsclf.training.settings import own_settings


def test_the_callers_threads_come_back():
    before = torch.get_num_threads()
    with own_settings():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before
