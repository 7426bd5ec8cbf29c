"""After a kernel whose blocks waited for one another in vain: an error, then the streamed path.

That they give up rather than hang, and leave NaN, test_cuda_emulation.py shows with planted faults. Each test is a
process of its own, which never takes the kernels again.
"""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "cuda"))

import emulated_library
from emulation.emulator import cuda_include

pytestmark = pytest.mark.thorough

TESTS = Path(__file__).parent
BEGIN = """
import sys
sys.path.insert(0, "cuda")
import emulated_library
import torch
import fastrnn

library = emulated_library.load()
for replacement in emulated_library.replacements():
    setattr(*replacement)

def passes(path):
    return library.fastrnn_emulated_passes(path)

layer, input = fastrnn.LSTM(5, 32), torch.randn(7, 3, 5, requires_grad=True)
before = layer(input)[0]
"""
GIVE_UP = """
assert passes(b"cluster") == 1 and passes(b"streamed") == 0
before.sum().backward()
library.fastrnn_emulated_give_up()
try:
    layer(input)
except RuntimeError as error:
    print(error)
else:
    sys.exit("nothing was raised")
torch.testing.assert_close(layer(input)[0], before)
layer(input)[0].sum().backward()
assert passes(b"cluster") == 2 and passes(b"streamed") == 3
"""


@pytest.fixture(scope="module", autouse=True)
def library():
    return emulated_library.build_library() if cuda_include() else pytest.skip("CUDA's headers were not found")


def run(program, **environment):
    command = ["env", *(f"{name}={value}" for name, value in environment.items())]
    command += [sys.executable, "-c", program]
    return subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=300, check=False)


def test_the_next_call_raises_and_later_ones_stream():
    done = run(BEGIN + GIVE_UP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the persistent kernel, backward (hidden_size 32, batch 3, 7 steps) waited in vain" in done.stdout


@pytest.mark.parametrize("seconds", ("soon", "0", "-1", "nan", "1e99"))
def test_a_limit_that_is_none_is_refused(seconds):
    done = run(BEGIN, FASTRNN_CUDA_WAIT_SECONDS=seconds)
    assert done.returncode == 1
    assert f"FASTRNN_CUDA_WAIT_SECONDS={seconds}: use a positive number" in done.stderr
