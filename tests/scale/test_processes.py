from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tinysource import Ran, command, environment, flags, run_command, weights

from signsclf.recipe import Recipe
from signsclf.runs.folder import Record, RunRequest, read_record, write_record
from signsclf.scale import processes
from signsclf.scale.processes import LOST_CONTACT, Ended, Processes

SHARED = flags(shards=4, epochs=6, batch_size=16, augment="camera", ema_decay=0.9)


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the shards."""
    folder = tmp_path_factory.mktemp("alone") / "m"
    ran = run_command("train", source, "--out", folder, *SHARED)
    assert ran.code == 0, ran.err
    return folder


def wait_for(path: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)


def children(process: subprocess.Popen) -> list[int]:
    """The process ids of those that train, the first first."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, found))


@pytest.mark.scale
@pytest.mark.slow
def test_two_processes_end_in_the_weights_of_one(source, alone, tmp_path):
    ran = run_command("train", source, "--out", tmp_path / "m", *SHARED, "--processes", 2, "--cache", "off")
    assert ran.code == 0, ran.err
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    assert (tmp_path / "m" / "model.onnx").read_bytes() == (alone / "model.onnx").read_bytes()
    # The first process alone tells.
    assert ran.err.count("epoch 1/6") == ran.err.count("plan: ") == 1 and ", 2 processes" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.scale
@pytest.mark.slow
def test_torchrun_starts_four_processes_that_end_in_the_weights_of_one(source, alone, tmp_path):
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "4",
        "--standalone",
        "-m",
        "signsclf",
    ]
    line = [*run, "train", str(source), "--out", str(tmp_path / "m"), *SHARED]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "m") == weights(alone)
    assert done.stderr.count("epoch 6/6") == done.stdout.count("model: ") == 1


@pytest.mark.scale
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_killed_process_ends_all_and_another_number_resumes_to_the_same_weights(source, alone, tmp_path):
    line = command("train", source, "--out", tmp_path / "m", *SHARED, "--processes", 2)
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    wait_for(tmp_path / "m.partial" / "checkpoint.pt", running)
    others = children(running)
    os.kill(others[1], signal.SIGKILL)
    out, err = running.communicate(timeout=60)
    said = Ran(running.returncode, out, err).complaint
    assert said.startswith("signsclf: process 2 of 2 was killed by signal 9 (SIGKILL); signsclf train --resume ")
    assert err.count("signsclf: ") == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in others)
    resumed = run_command("train", "--resume", tmp_path / "m", "--processes", 4)
    assert resumed.code == 0, resumed.err
    assert weights(tmp_path / "m") == weights(alone)


@pytest.mark.scale
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_one_interrupt_stops_all_with_a_checkpoint_that_one_process_resumes(source, alone, tmp_path):
    line = command("train", source, "--out", tmp_path / "m", *SHARED, "--processes", 2)
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    wait_for(tmp_path / "m.partial" / "checkpoint.pt", running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.count("stopping after this batch") == err.count("stopped; resume with") == 1
    resumed = run_command("train", "--resume", tmp_path / "m")
    assert resumed.code == 0, resumed.err
    assert weights(tmp_path / "m") == weights(alone)


# -- the processes themselves, with others in place of trainings -----------------------------------------------------


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The argument is run as Python in each process."""
    code = "import json, os, signal, sys, time; sys.path[:] = json.loads(sys.argv[1]); rank = int(os.environ['RANK'])"
    monkeypatch.setattr(processes, "_CODE", code + "; exec(sys.argv[2])")
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 1.0)


def ended(n: int, code: str) -> Ended:
    with Processes(n, [code]) as running:
        return running.wait()


ENDS = [
    (2, "pass", Ended(code=0)),
    (3, "time.sleep(0.3 * (rank == 0))", Ended(code=0)),
    (2, "sys.exit(2 * (rank == 0)) if rank == 0 else time.sleep(60)", Ended(code=2)),
    (
        2,
        "(sys.stderr.write('epoch\\nsignsclf: a: gone; put it back\\n'), sys.exit(2)) if rank else time.sleep(60)",
        Ended(code=2, trouble="process 2 of 2: a: gone; put it back"),
    ),
    (3, "sys.exit(4) if rank == 2 else time.sleep(60)", Ended(code=4, trouble="process 3 of 3: exit code 4")),
    (
        2,
        f"os.kill(os.getpid(), 9) if rank == 0 else sys.exit({LOST_CONTACT})",
        Ended(code=1, trouble="process 1 of 2 was killed by signal 9 (SIGKILL)"),
    ),
    (
        2,
        f"sys.exit({LOST_CONTACT}) if rank == 0 else (time.sleep(0.3), os.kill(os.getpid(), 9))",
        Ended(code=1, trouble="process 2 of 2 was killed by signal 9 (SIGKILL)"),
    ),
    (2, f"sys.exit({LOST_CONTACT})", Ended(code=1, trouble="the 2 processes have lost contact with each other")),
    (
        2,
        f"sys.exit({LOST_CONTACT}) if rank == 0 else time.sleep(60)",
        Ended(code=1, trouble="process 2 of 2 does not answer"),
    ),
    # One that heeds no request to end.
    (2, "sys.exit(3) if rank else (signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(60))", None),
]


@pytest.mark.scale
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("n", "code", "wanted"), ENDS)
def test_how_processes_end_and_which_one_is_told_of(instead, n, code, wanted):
    began = time.monotonic()
    found = ended(n, code)
    assert time.monotonic() - began < 30
    assert found == (wanted or Ended(code=3, trouble="process 2 of 2: exit code 3"))


@pytest.mark.scale
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_first_process_alone_hears_of_a_signal_and_all_are_gone_afterwards(instead, tmp_path):
    code = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').close(); time.sleep(60)"
    with Processes(2, [code]) as running:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        running.signal(signal.SIGUSR1)
        assert running.wait() == Ended(
            code=1, trouble=f"process 1 of 2 was killed by signal {int(signal.SIGUSR1)} (SIGUSR1)"
        )
    assert all(process.poll() is not None for process in running._running)


@pytest.mark.scale
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_whose_parent_is_gone_is_asked_to_stop():
    code = "from signsclf.scale.processes import end_with_parent; import time; end_with_parent(); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    child.stdin.close()
    assert child.wait(30) == -signal.SIGTERM


@pytest.mark.scale
def test_no_module_of_the_working_directory_is_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with Processes(1, ["--version"]) as running:
        assert running.wait() == Ended(code=0)


def test_only_the_variables_of_torchrun_make_a_process_one_of_several(monkeypatch):
    for name in processes._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert processes.processes_here() is None
    found = processes._environment(1, 4, 1234)
    for name in processes._VARIABLES:
        assert processes.processes_here() is None
        monkeypatch.setenv(name, found[name])
    assert processes.processes_here() == 4
    assert found["MASTER_ADDR"] == "127.0.0.1" and found["RANK"] == found["LOCAL_RANK"] == "1"


# -- the command line -----------------------------------------------------------------------------------------------


def test_wrong_numbers_of_processes_are_refused_before_any_is_started(cli, source, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "Processes", None)
    said = cli("train", source, "--out", tmp_path / "m", "--shards", 8, "--processes", 3).complaint
    assert said.endswith("3 processes: they cannot share the 8 shards of a batch evenly; start 1, 2, 4 or 8")
    assert cli("train", source, "--processes", 0).code == 2
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").touch()
    assert "not a model folder" in cli("train", source, "--out", tmp_path / "m", "--processes", 2).complaint


def test_a_number_other_than_torchruns_is_refused(cli, source, monkeypatch):
    for name, value in processes._environment(0, 2, 1234).items():
        monkeypatch.setenv(name, value)
    assert cli("train", source, "--processes", 3).complaint.endswith("torchrun has started 2; leave it out")


def test_a_run_of_an_earlier_version_is_of_whole_batches_and_stays_in_one_process(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "Processes", None)
    partial = tmp_path / "m.partial"
    partial.mkdir()
    write_record(partial, Record(request=RunRequest.of("gone"), recipe=Recipe(), fingerprint="f"))
    values = json.loads((partial / "run.json").read_text())
    del values["recipe"]["shards"]
    (partial / "run.json").write_text(json.dumps(values))
    assert read_record(partial).recipe.shards == 1
    said = cli("train", "--resume", tmp_path / "m", "--processes", 2).complaint
    assert said.endswith("2 processes: the batches are whole ones (--shards 1), for one process only")
