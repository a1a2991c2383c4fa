from __future__ import annotations

import json
import os
import socket

from signsclf.scale import claims
from signsclf.scale.claims import Claims, claims_in


def test_a_claim_is_of_one_and_free_again_when_it_is_given_back(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take(1) and not other.take(1) and other.take(2)
        assert claims_in(tmp_path) == 2
        one.give_back(1)
        assert other.take(1)
    assert claims_in(tmp_path) == 0


def test_a_claim_whose_process_is_gone_is_taken_over(tmp_path):
    with Claims(tmp_path) as mine:
        path = tmp_path / "claims/000001.json"
        path.write_text(json.dumps({"host": socket.gethostname(), "process": 2**22 + 1}))
        assert mine.take(1)


def test_a_claim_of_another_machine_lives_while_it_beats(tmp_path):
    with Claims(tmp_path) as mine:
        path = tmp_path / "claims/000001.json"
        path.write_text(json.dumps({"host": "another", "process": 1}))
        assert not mine.take(1)
        os.utime(path, (0, 0))
        assert claims_in(tmp_path) == 0 and mine.take(1)


def test_what_is_held_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with Claims(tmp_path) as mine:
        mine.take(1)
        path = tmp_path / "claims/000001.json"
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            pass
