"""What benchmarks/gpu.py makes of its measurements, rehearsed on the CPU."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WRONG_LSTM = """
import runpy, sys, fastrnn

plain = fastrnn.LSTM.forward

def wrong(self, input, hx=None):
    output, states = plain(self, input, hx)
    return output * {factor}, states

fastrnn.LSTM.forward = wrong
sys.path.insert(0, {folder!r})
sys.argv = ["gpu.py", "--rehearse", "--cells", "LSTM", "--precisions", "f32", "--seconds", "0.01", "--csv", {file!r}]
runpy.run_path({folder!r} + "/gpu.py", run_name="__main__")
"""


@pytest.mark.parametrize("factor", (1.0, 1.01, float("nan")), ids=("right", "wrong", "nan"))
def test_no_times_of_wrong_results(tmp_path, factor):
    file = tmp_path / "gpu.csv"
    number = "float('nan')" if factor != factor else factor
    script = WRONG_LSTM.format(factor=number, folder=str(BENCHMARKS), file=str(file))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    right = factor == 1.0
    assert done.returncode == (0 if right else 1), done.stderr
    assert ("WRONG: LSTM f32" in done.stdout) == (not right)
    assert ("| LSTM |" in done.stdout) == right
    if right:
        with file.open() as lines:
            assert all(float(row["host_us"]) > 0 for row in csv.DictReader(lines))
