from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tinysource import environment

from signsclf.cli import terminal
from signsclf.cli.terminal import Bar, Stopped, echo, echo_json, eprint, machine_output, quiet_pipe
from signsclf.observer import PlanSummary

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals as on POSIX")
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


class Terminal:
    """A pseudo-terminal whose other end is a text stream."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")

    def seen(self) -> bytes:
        """What was written so far."""
        self.stream.flush()
        os.set_blocking(self.master, False)
        parts = []
        try:
            while part := os.read(self.master, 65536):
                parts.append(part)
        except OSError:
            pass
        return b"".join(parts)


@pytest.fixture
def pty(monkeypatch):
    """Called in the test, it makes standard error a terminal: pytest sets its own streams after the fixtures."""
    made = Terminal()

    def begin() -> Terminal:
        monkeypatch.setattr(sys, "stderr", made.stream)
        monkeypatch.setenv("TERM", "xterm")
        return made

    yield begin
    Bar.close_shown()
    monkeypatch.undo()
    made.stream.close()
    os.close(made.master)


@POSIX
@pytest.mark.parametrize("end", [lambda: eprint("done"), lambda: echo("done"), machine_output, Bar.close_shown])
def test_whatever_is_said_gives_the_cursor_back_first(pty, end):
    terminal = pty()
    bar = Bar()
    bar("checking", 1, 10)
    bar("checking", 2, 10)
    end()
    seen = terminal.seen()
    assert seen.count(HIDE) == seen.count(SHOW) == 1
    assert seen.rfind(b"done") in (-1, max(seen.rfind(b"done"), seen.index(SHOW)))


@POSIX
def test_a_second_bar_takes_the_place_of_the_first(pty):
    terminal = pty()
    for unit in ("images", "bytes"):
        Bar(unit)("downloading", 1, 10)
    Bar()("new task", 10, 10)
    seen = terminal.seen()
    assert seen.count(HIDE) == seen.count(SHOW) == 3


@POSIX
def test_the_task_of_a_bar_is_escaped(pty):
    terminal = pty()
    Bar().show("epoch \x1b]0;title\x07[red]", 1, 10, "[bold]\x1b")
    Bar.close_shown()
    assert b"\x1b]0;" not in terminal.seen()


@POSIX
@pytest.mark.parametrize("step", ["push_render_hook", "pop_render_hook", "set_live", "clear_live"])
def test_a_signal_while_a_bar_is_shown_or_taken_away_waits(pty, monkeypatch, step):
    from rich.console import Console

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    terminal_seen = pty()
    usual = getattr(Console, step)

    def interrupted(self, *values):
        monkeypatch.setattr(Console, step, usual)
        os.kill(os.getpid(), signal.SIGINT)
        return usual(self, *values)

    monkeypatch.setattr(Console, step, interrupted)
    try:
        terminal.stop_on_signals()
        with pytest.raises(Stopped):
            Bar()("checking", 1, 10)
            Bar.close_shown()
        Bar.close_shown()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    seen = terminal_seen.seen()
    assert seen.count(HIDE) == seen.count(SHOW) == 1


def test_no_bar_where_standard_error_is_no_terminal(capsys):
    bar = Bar()
    bar("checking", 1, 10)
    bar.show("checking", 1, 10, "x")
    assert Bar._shown is None
    assert capsys.readouterr().err == ""


def test_told_and_echoed_lines_are_escaped(capsys):
    eprint("a\x1b[2Jb\nc")
    echo("d\x1b]0;e\x07")
    out, err = capsys.readouterr()
    assert (out, err) == ("d\\x1b]0;e\\x07\n", "a\\x1b[2Jb\\nc\n")


def test_json_is_utf8_whatever_the_locale(monkeypatch):
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink, encoding="cp1252", newline="\r\n"))
    echo_json({"path": "é停😀\udcc3\udcbc\x1b"})
    assert json.loads(sink.getvalue().decode("utf-8")) == {"path": "é停😀ü\x1b"}
    assert sink.getvalue().endswith(b"}\n")


def test_streams_that_cannot_be_set_up_are_used_as_they_are(monkeypatch):
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stdout", sink)
    echo_json(["é"])
    terminal.open_streams()
    assert sink.getvalue() == '["é"]\n'


def test_a_closed_pipe_is_no_failure_and_other_errors_are(monkeypatch):
    def failing(error):
        def work():
            raise error

        return work

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert quiet_pipe(lambda: 3) == 3
    assert quiet_pipe(failing(BrokenPipeError())) is None
    invalid = OSError(errno.EINVAL, "Invalid argument")
    monkeypatch.setattr(sys, "platform", "win32")
    assert quiet_pipe(failing(invalid)) is None
    with pytest.raises(OSError):
        quiet_pipe(failing(OSError(errno.EINVAL, "Invalid argument", "a.png")))
    with pytest.raises(OSError):
        quiet_pipe(failing(OSError(errno.ENOSPC, "full")))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(OSError):
        quiet_pipe(failing(invalid))


@POSIX
def test_hanging_up_is_as_being_terminated_unless_it_is_ignored():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        terminal.stop_on_signals()
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stopped.value.exit_code == 129
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
        terminal.stop_on_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = []
        terminal.on_signals(lambda number, _: heard.append(number), nohup=False)
        os.kill(os.getpid(), signal.SIGHUP)
        assert heard == [signal.SIGHUP]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_platforms_without_hanging_up(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    set_up = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_up.append(number))
    terminal.stop_on_signals()
    assert set_up == [signal.SIGINT, signal.SIGTERM]


@POSIX
def test_the_first_signal_of_a_training_asks_it_to_stop_and_any_other_ends_the_process(capsys):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        terminal.stop_on_signals()
        observer = terminal.TerminalObserver()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGHUP)
        observer.training_began()
        assert not observer.stop.event.is_set()
        os.kill(os.getpid(), signal.SIGHUP)
        assert observer.stop.event.is_set()
        assert observer.stop.signal == signal.SIGHUP
        assert "stopping after this batch" in capsys.readouterr().err
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        other = terminal.TerminalObserver()
        other.training_began()
        other.training_ended()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        assert not other.stop.event.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


PLAN = PlanSummary(
    arch="mlp",
    size=32,
    device="cpu, 2 threads",
    precision="fp32",
    freeze_epochs=0,
    epochs=10,
    n_train=9,
    epoch_images=0,
    samples=None,
    n_synthetic=0,
    chosen=(("batch_size", 16, "for 9 images"),),
    seconds=42.4,
)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, ["plan: mlp at 32 px, 10 epochs of 9 images", "estimated time: 42 s"]),
        ({"seconds": None}, ["plan: mlp at 32 px, 10 epochs of 9 images"]),
        (
            {"rehearsals": 1},
            [
                "plan: mlp at 32 px, 10 epochs of 9 images",
                "  then again with a fifth of the images held out, to calibrate; --no-rehearsal leaves it out",
                "estimated time: 42 s",
            ],
        ),
        (
            {"rehearsals": 3, "seconds": None},
            [
                "plan: mlp at 32 px, 10 epochs of 9 images",
                "  then 3 times with a fifth of the images held out, to calibrate; --no-rehearsal leaves it out",
            ],
        ),
        (
            {"freeze_epochs": 1, "epochs": 9, "epoch_images": 4, "samples": 400, "n_synthetic": 6, "seconds": 7200.0},
            [
                "plan: mlp at 32 px, 1 epochs of the head, then 9 epochs of 4 images out of 9 and 6 synthetic signs",
                "estimated time: 2 h 0 min",
                "  that is long: --recipe fast trains a small network in minutes, --samples 200 halves it",
            ],
        ),
    ],
)
def test_a_plan_is_told_with_its_reasons(capsys, changes, lines):
    terminal.TerminalObserver().planned(dataclasses.replace(PLAN, **changes))
    head = ["device: cpu, 2 threads, fp32", "  batch-size 16: for 9 images"]
    assert capsys.readouterr().err.splitlines() == [*head, *lines]


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_bar_gives_the_cursor_back(source, number):
    script = f"""
import os, sys
from signsclf.data import check
def slow(found, observer):
    observer.progress("checking", 1, 10)
    os.kill(os.getpid(), {int(number)})
    raise SystemExit("the signal was not heard")
check.check = slow
sys.argv = ["signsclf", "data", "check", {str(source)!r}]
from signsclf.__main__ import main
main()
"""
    code, seen = on_terminal([sys.executable, "-c", script])
    assert code == 128 + number, seen
    assert seen.count(HIDE) == seen.count(SHOW) == 1
    assert b"stopped" in seen.rpartition(SHOW)[2]


@POSIX
def test_an_unexpected_error_during_a_bar_gives_the_cursor_back(source):
    script = f"""
import sys
from signsclf.data import check
def failing(found, observer):
    observer.progress("checking", 1, 10)
    raise KeyError("odd")
check.check = failing
sys.argv = ["signsclf", "data", "check", {str(source)!r}]
from signsclf.__main__ import main
main()
"""
    code, seen = on_terminal([sys.executable, "-c", script])
    assert code == 1
    assert seen.count(HIDE) == seen.count(SHOW) == 1
    assert b"unexpected KeyError" in seen.rpartition(SHOW)[2]


def on_terminal(words: list[str]) -> tuple[int, bytes]:
    """Runs a command whose standard error is a terminal: its exit code and what that terminal saw."""
    made = Terminal()
    with made.stream:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=made.stream,
            env=environment(TERM="xterm"),
        )
        code = process.wait(60)
        seen = made.seen()
    os.close(made.master)
    return code, seen


@POSIX
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_a_start_without_standard_streams(source, model, tmp_path, closed):
    image, out = next(Path(source).rglob("*.png")), tmp_path / "o.csv"
    words = f'"{sys.executable}" -m signsclf predict "$1" --model "$2" --format csv --out "$3" {closed}'
    code = subprocess.run(["bash", "-c", words, "x", image, model, out], env=environment(), check=False).returncode
    assert code == 0
    assert len(out.read_text("utf-8").splitlines()) == 2
    missing = words.replace('"$1"', "none.png")
    assert subprocess.run(["bash", "-c", missing, "x", image, model, out], env=environment()).returncode == 1


def test_garbage_is_looked_for_again_after_imports():
    import gc

    with terminal.no_garbage():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.unfreeze()
