"""python -m fastrnn."""

import subprocess
import sys

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
