"""Kernels that keep w_hh on the chip prove themselves at their first use: on the emulated GPU, with faults planted.

Each test has shapes of its own, since a process verifies a kernel once for each.
"""

import itertools
import warnings
from typing import NamedTuple

import pytest
import torch
from cases import assert_same
from test_cuda_emulated_layers import gpu, library, passes  # noqa: F401
from torch import nn

import fastrnn
from fastrnn._call import precision

pytestmark = pytest.mark.thorough

HIDDEN, STEPS, INPUT = 64, 5, 3
BATCHES = itertools.count(1)
# As csrc/pass_words.h and spoilt_run.cpp number them.
PATHS, PASSES = {"persistent": 3, "cluster": 4}, {"forward": 0, "backward": 1}
FAULTS = {
    "wrong number": (0, r"differs from the streamed path by 0\.2\d+ \(0\.\d+ would be rounding\)"),
    "gives up": (1, "waited in vain for a block of its own"),
    "does not launch": (2, "does not run: fastrnn: CUDA error: too many blocks in cooperative launch"),
}
FAILED = "on this GPU the kernel that keeps them on the chip differed from the streamed path"
CAPTURED = "a graph is captured, and the kernel has not been verified: fastrnn.cuda.warm_up() does that ahead"


@pytest.fixture(autouse=True)
def verified(gpu, monkeypatch):  # noqa: F811
    monkeypatch.delenv("FASTRNN_CUDA_VERIFY")


@pytest.fixture
def spoil(library):  # noqa: F811
    yield lambda path, pass_, fault: library.fastrnn_emulated_spoil(PATHS[path], PASSES[pass_], FAULTS[fault][0])
    library.fastrnn_emulated_spoil(-1, -1, 0)


@pytest.fixture
def capture(library):  # noqa: F811
    yield lambda here, elsewhere=False: library.fastrnn_emulated_capture(here, elsewhere)
    library.fastrnn_emulated_capture(False, False)


class Call(NamedTuple):
    """A layer and an input of a batch that no other test has."""

    module: nn.Module
    input: torch.Tensor

    @classmethod
    def of(cls, layer="LSTM", dtype=torch.float32, **options):
        module = getattr(fastrnn, layer)(INPUT, HIDDEN, dtype=dtype, **options)
        return cls(module, torch.randn(STEPS, next(BATCHES), INPUT, dtype=dtype, requires_grad=True))

    def results(self):
        """Output and the gradients of input and parameters, as the process computes them now."""
        output = self.module(self.input)[0]
        return output, *torch.autograd.grad(output.float().square().sum(), (self.input, *self.module.parameters()))

    def exact(self):
        theirs = getattr(nn, type(self.module).__name__)(INPUT, HIDDEN, dtype=torch.float64)
        theirs.load_state_dict(self.module.state_dict())
        return Call(theirs, self.input.detach().double().requires_grad_()).results()

    def paths(self):
        return [row.path for row in fastrnn.explain(self.module, self.input).rows]

    def reasons(self):
        return [row.reason for row in fastrnn.explain(self.module, self.input).rows]


def unheard(call):
    """The call's results, and that nothing warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call.results()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_kernel_is_never_taken(path, pass_, fault, spoil, passes, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    spoil(path, pass_, fault)
    call = Call.of()
    assert call.paths() == [path, path]
    who = f"on this emulated GPU, the {path} kernel of lstm, {pass_}, in Float"
    where = rf"\(hidden_size {HIDDEN}, batch {call.input.shape[1]}\)"
    with pytest.warns(UserWarning, match=f"{who} {where}, {FAULTS[fault][1]}") as heard:
        first = call.results()
    assert len(heard) == 1
    for results in (first, unheard(call)):
        assert_same(dict(enumerate(call.exact())), dict(enumerate(value.double() for value in results)), 1e-4)
    assert passes() == {path: 2, "streamed": 2}
    wrong = PASSES[pass_]
    assert call.paths()[wrong] == "streamed"
    assert call.reasons()[wrong] == FAILED
    assert call.paths()[1 - wrong] == path


def test_unverified_if_so_wished(spoil, monkeypatch):
    """Which also shows that what is planted does reach the results."""
    monkeypatch.setenv("FASTRNN_CUDA_VERIFY", "0")
    spoil("cluster", "forward", "wrong number")
    call = Call.of()
    _, hy = call.module(call.input)
    exact = nn.LSTM(INPUT, HIDDEN)
    exact.load_state_dict(call.module.state_dict())
    off = (hy[0] - exact(call.input)[1][0]).abs()
    assert off.max() > 0.2
    monkeypatch.setenv("FASTRNN_CUDA_VERIFY", "never")
    with pytest.raises(RuntimeError, match="FASTRNN_CUDA_VERIFY=never: 0 takes kernels unverified"):
        call.module(call.input)


@pytest.mark.parametrize(
    ("dtype", "tf32"),
    ((torch.float32, False), (torch.float32, True), (torch.float16, False), (torch.bfloat16, False)),
    ids=("f32", "tf32", "f16", "bf16"),
)
@pytest.mark.parametrize("layer", ("RNN", "LSTM", "GRU"))
@pytest.mark.parametrize("path", PATHS)
def test_a_right_kernel_is_taken(path, layer, dtype, tf32, library, passes, monkeypatch):  # noqa: F811
    """And nobody waits for the GPU after its first use."""
    monkeypatch.setattr(precision, "allows_tf32", lambda input: tf32)
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    call = Call.of(layer, dtype, bidirectional=True)
    before = library.fastrnn_emulated_synchronised()
    unheard(call)
    assert library.fastrnn_emulated_synchronised() == before + 2
    unheard(call)
    assert library.fastrnn_emulated_synchronised() == before + 2
    assert passes() == {path: 4}
    assert set(call.paths()) == {path}


def test_split_backward_is_verified(library, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "persistent")
    call = Call.of("GRU", torch.float16)
    unheard(call)
    before = library.fastrnn_emulated_synchronised()
    monkeypatch.setenv("FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT", "0")
    unheard(call)
    assert library.fastrnn_emulated_synchronised() == before + 1
    assert "split" in call.reasons()[1]


def test_captured_unverified(capture, library, passes):  # noqa: F811
    """Then the streamed path, and no comparison in the graph."""
    call, before = Call.of(), library.fastrnn_emulated_synchronised()
    capture(True)
    assert call.reasons() == [CAPTURED, CAPTURED]
    unheard(call)
    assert passes() == {"streamed": 2}
    assert library.fastrnn_emulated_synchronised() == before
    capture(False)
    unheard(call)
    assert passes() == {"streamed": 2, "cluster": 2}
    capture(True)
    unheard(call)
    assert passes() == {"streamed": 2, "cluster": 4}


def test_beside_another_thread_s_capture(capture, passes):  # noqa: F811
    capture(False, elsewhere=True)
    unheard(Call.of())
    assert passes() == {"cluster": 2}


def test_warm_up(capture, spoil, passes, library):  # noqa: F811
    """Verifies both passes, leaves no trace else, and tells what it found."""
    call = Call.of(dropout=0.5, num_layers=2)
    state = torch.get_rng_state()
    with torch.no_grad():
        explanation = fastrnn.cuda.warm_up(call.module, call.input)
    assert {row.path for row in explanation.rows} == {"cluster", "none"}
    assert torch.equal(torch.get_rng_state(), state)
    assert call.input.grad is None
    assert all(parameter.grad is None for parameter in call.module.parameters())
    before = library.fastrnn_emulated_synchronised()
    capture(True)
    taken = passes()
    unheard(call)
    assert passes() - taken == {"cluster": 4}
    assert library.fastrnn_emulated_synchronised() == before
    capture(False)
    wrong = Call.of()
    spoil("cluster", "backward", "wrong number")
    with pytest.warns(UserWarning, match="the cluster kernel of lstm, backward"):
        explanation = fastrnn.cuda.warm_up(wrong.module, wrong.input)
    assert [row.path for row in explanation.rows] == ["cluster", "streamed"]
    with pytest.raises(TypeError, match="explain takes a fastrnn layer"):
        fastrnn.cuda.warm_up(nn.LSTM(1, 1), call.input)
