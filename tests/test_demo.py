"""What examples/char_rnn.py says: one figure for the speed, and after Ctrl-C a command that works."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent


@pytest.fixture
def char_report(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("char_report")


@pytest.fixture
def results(char_report):
    """Both take 2 s in the median, but in the median pair torch.nn takes 1.25 times as long."""
    seconds = {"torch": [1.0, 2.0, 5.0], "fastrnn": [2.0, 1.0, 4.0]}
    return {
        impl: char_report.Result(impl, losses=[2.0, 1.5, 1.0], seconds=taken, held_out=1.0, characters=100)
        for impl, taken in seconds.items()
    }


def test_text_and_picture_have_one_figure(char_report, results, monkeypatch, capsys, tmp_path):
    figures = []
    monkeypatch.setattr(char_report.plt, "close", figures.append)
    char_report.print_table(results)
    char_report.draw(tmp_path / "picture.png", results)
    assert "1.25x  (median of 3 pairs of steps)" in capsys.readouterr().out
    assert [label.get_text() for label in figures[0].axes[1].texts] == ["1.00x", "1.25x"]


def test_one_alone_has_its_speed(char_report, results, capsys, tmp_path):
    alone = {"fastrnn": results["fastrnn"]}
    char_report.print_table(alone)
    char_report.draw(tmp_path / "picture.png", alone)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["characters", "per", "second", "50"]
    assert (tmp_path / "picture.png").exists()


def test_after_ctrl_c_the_command_that_it_prints_goes_on(tmp_path):
    small = ["--batch", "2", "--length", "2", "--hidden-size", "4", "--steps", "700", "--threads", "1"]
    command = [sys.executable, "examples/char_rnn.py", *small, "--out", str(tmp_path / "an out folder")]
    training = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("*/char_lstm.pt")):  # after 200 steps
        assert training.poll() is None
        time.sleep(0.01)
    training.send_signal(signal.SIGINT)
    said, _ = training.communicate()
    assert training.returncode == 130, said
    again = subprocess.run(said.splitlines()[-1], shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "steps: 700" in again.stdout
