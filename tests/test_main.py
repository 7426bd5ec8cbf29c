"""python -m fastrnn."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastrnn
from fastrnn import __main__ as main


def test_as_a_user_calls_it():
    done = subprocess.run([sys.executable, "-m", "fastrnn", "--seconds", "0.1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (fastrnn.__version__, torch.__version__, "GRUCell equal torch.nn's", "LSTM inference"):
        assert expected in done.stdout


def test_no_speed_check(capsys):
    assert main.main(["--seconds", "0"]) == 0
    assert "speed" not in capsys.readouterr().out


@pytest.mark.parametrize("wrong", (1e-3, float("nan")))
def test_a_wrong_result_is_told(monkeypatch, capsys, wrong):
    class Broken(fastrnn.GRU):
        def forward(self, input):
            output, hy = super().forward(input)
            return output + wrong, hy

    monkeypatch.setitem(main.OURS, torch.nn.GRU, Broken)
    assert main.main(["--seconds", "0"]) == 1
    assert "WRONG: Broken" in capsys.readouterr().out


def compared(monkeypatch, ratios, waiting=0.0):
    """What the speed check says where ours takes 2 ms, torch.nn's so many times as long, with so much waiting."""
    now = 0.0

    def taking(seconds):
        def function():
            nonlocal now
            now += next(seconds)

        return function

    monkeypatch.setattr(main, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(main, "waited", lambda: waiting * now)
    return str(main.compare(taking(itertools.repeat(2e-3)), taking(2e-3 * ratio for ratio in ratios), seconds=0))


def test_a_ratio_comes_with_its_spread(monkeypatch):
    said = compared(monkeypatch, (1.30, 1.10, 1.15, 1.20, 40.0), waiting=0.05)
    assert said == "2.00 ms, 1.20 times as fast as torch.nn (quartiles 1.15 to 1.30)"


def test_no_ratio_where_the_spread_is_wide(monkeypatch):
    said = compared(monkeypatch, (1.05, 34.0, 1.1, 33.75, 60.0))
    assert said == "2.00 ms, too noisy to tell: 1.1 to 34 times as fast as torch.nn"


def test_no_ratio_where_others_have_the_cores(monkeypatch):
    """It may even be steady: as steady as what the others do."""
    said = compared(monkeypatch, (33.75,) * 5, waiting=0.5)
    assert said == "2.00 ms, too noisy to tell: threads had to wait for a core"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's record of who waited for a core")
def test_waiting_for_a_core_is_seen():
    """Two processes on one core wait for it in turns."""
    code = (
        "import os, subprocess, sys, time\n"
        "from fastrnn.__main__ import waited\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "other = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "before, end = waited(), time.perf_counter() + 1\n"
        "while time.perf_counter() < end: pass\n"
        "other.kill()\n"
        "print(waited() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.2
