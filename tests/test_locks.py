from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from signsclf import locks
from signsclf.locks import LockedError, locked

HOLD = """
import sys, time
from pathlib import Path
from signsclf.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_and_nothing_is_left_behind(tmp_path):
    target = tmp_path / "new" / "m"
    with locked(target):
        with pytest.raises(LockedError, match=rf"m is being written by another signsclf \(process {os.getpid()}\)"):
            locked(target).__enter__()
        with locked(tmp_path / "new" / "other"):
            pass
        assert [path.name for path in target.parent.iterdir()] == [".m.lock"]
    with locked(target):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_killed_process_leaves_no_lock(tmp_path):
    target = tmp_path / "m"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, target], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(LockedError, match=str(holder.pid)):
        locked(target).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / ".m.lock").exists()
    with locked(target):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_holds_it_at_a_time(tmp_path):
    inside, most, refused = [], [], []

    def work() -> None:
        for _ in range(50):
            try:
                with locked(tmp_path / "m"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except LockedError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(most) + len(refused) == 200
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_does_without(tmp_path, monkeypatch):
    def none(file) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock", none)
    with locked(tmp_path / "m"), locked(tmp_path / "m"):
        pass


def test_on_a_full_disk_the_lock_holds_and_leaves_nothing(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(path, mode, buffering=-1):
        raw = Full(path, mode.replace("b", ""))
        return raw if buffering == 0 else io.BufferedRandom(raw)

    monkeypatch.setattr(Path, "open", open_full)
    with locked(tmp_path / "m"), pytest.raises(LockedError, match="by another signsclf; wait"):
        locked(tmp_path / "m").__enter__()
    assert list(tmp_path.iterdir()) == []
