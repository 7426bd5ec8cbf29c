"""pack_weights(): the same results from weights packed once, and never from stale ones that torch knows of."""

import copy
import io
import pickle

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS, flatten
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import fastrnn

DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16}
by_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def weights_read(module, *args):
    """How explain() says that forward reads the recurrent weights, in each layer and direction."""
    return {row.weights for row in fastrnn.explain(module, *args).rows if row.pass_ == "forward"}


def make(kernel, dtype=torch.float32, **options):
    layer, kernel_options = KERNELS[kernel]
    return getattr(fastrnn, layer)(5, 37, **kernel_options, **options).to(dtype)


@pytest.mark.isa
@by_dtype
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("steps", "batch", "threads"), ((9, 2, 1), (40, 3, 1), (300, 3, 3)))
@pytest.mark.parametrize("bidirectional", (True, False))
@torch.no_grad()
def test_same_bits_as_packing(kernel, dtype, steps, batch, threads, bidirectional):
    """Layer by layer, and all in one wavefront."""
    torch.set_num_threads(threads)
    module = make(kernel, dtype, num_layers=3, bidirectional=bidirectional)
    value = torch.randn(steps, batch, 5, dtype=dtype)
    expected = flatten(module(value))
    assert weights_read(module, value) == {"packed"}
    assert module.pack_weights() is module
    assert weights_read(module, value) == {"packed ahead"}
    assert all(torch.equal(one, expected[name]) for name, one in flatten(module(value)).items())
    assert module.unpack_weights() is module
    assert weights_read(module, value) == {"packed"}


@by_dtype
@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@torch.no_grad()
def test_one_step(name, dtype):
    """Without packing ahead, a single step reads its weights in place."""
    module = getattr(fastrnn, name)(5, 37, dtype=dtype)
    value = torch.randn(1, 5, dtype=dtype)
    hx = torch.randn(1, 37, dtype=dtype)
    hx = (hx, hx.clone()) if name.startswith("LSTM") else hx
    expected = flatten(module(value, hx))
    assert weights_read(module, value, hx) == {"in place"}
    module.pack_weights()
    assert weights_read(module, value, hx) == {"packed ahead"}
    torch.testing.assert_close(flatten(module(value, hx)), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_without_biases_packed_sequences_and_lengths(layer):
    module, theirs = (getattr(package, layer)(5, 37, bias=False) for package in (fastrnn, nn))
    theirs.load_state_dict(module.state_dict())
    module.pack_weights()
    value, lengths = torch.randn(6, 3, 5), torch.tensor([6, 4, 1])
    packed = nn.utils.rnn.pack_padded_sequence(value, lengths)
    with torch.no_grad():
        expected = theirs(packed)
        assert weights_read(module, packed) == {"packed ahead"}
        torch.testing.assert_close(flatten(module(packed)), flatten(expected))
        assert weights_read(module, value) == {"packed ahead"}
        torch.testing.assert_close(flatten(module(value, lengths=lengths)[1]), flatten(expected[1]))


def test_recording_gradients_reads_the_parameters():
    module = fastrnn.LSTM(5, 37).pack_weights()
    value = torch.randn(9, 2, 5)
    assert weights_read(module, value) == {"packed"}
    module(value)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    module.requires_grad_(False)
    assert weights_read(module, value) == {"packed ahead"}
    assert weights_read(module, value.requires_grad_()) == {"packed"}


def replace_parameter(module):
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0 * 2)


CHANGES = {
    "in place": lambda module: module.weight_hh_l0.mul_(2),
    "a bias": lambda module: module.bias_hh_l0.add_(1),
    "replaced": replace_parameter,
    "load_state_dict": lambda module: module.load_state_dict(fastrnn.GRU(5, 37).state_dict()),
    "to": lambda module: module.half().float(),
    "optimizer": lambda module: torch.optim.SGD(module.parameters(), 0.1).step(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_no_stale_weights(change):
    module = fastrnn.GRU(5, 37).pack_weights()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    value = torch.randn(9, 2, 5)
    change(module)
    assert weights_read(module, value) == {"packed"}
    fresh = fastrnn.GRU(5, 37)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(module(value)[0], fresh(value)[0])
    assert weights_read(module.pack_weights(), value) == {"packed ahead"}
    assert torch.equal(module(value)[0], fresh(value)[0])


@torch.no_grad()
def test_functional_call_brings_weights_of_its_own():
    module = fastrnn.GRU(5, 37).pack_weights()
    other = fastrnn.GRU(5, 37)
    value = torch.randn(9, 2, 5)
    output, _ = torch.func.functional_call(module, dict(other.named_parameters()), (value,))
    assert torch.equal(output, other(value)[0])


@pytest.mark.parametrize("name", ("LSTM", "LSTMCell"))
@torch.no_grad()
def test_copies_are_not_packed(name):
    module = getattr(fastrnn, name)(5, 37).pack_weights()
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    restored = torch.load(buffer, weights_only=False)
    value = torch.randn(9, 5)
    for other in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module)), restored):
        assert weights_read(other, value) == {"packed"}
        torch.testing.assert_close(flatten(other(value)), flatten(module(value)))
    assert weights_read(module, value) == {"packed ahead"}
    assert set(module.state_dict()) == set(getattr(nn, name)(5, 37).state_dict())


def test_inference_mode():
    with torch.inference_mode():
        module = fastrnn.LSTM(5, 37)
        value = torch.randn(9, 2, 5)
        expected = module(value)[0]
        assert weights_read(module.pack_weights(), value) == {"packed ahead"}
        assert torch.equal(module(value)[0], expected)


@torch.no_grad()
def test_transforms_and_compiled_calls_do_without():
    module = fastrnn.LSTM(5, 37).pack_weights()
    value = torch.randn(4, 9, 2, 5)
    expected = torch.stack([module(one)[0] for one in value])
    torch.testing.assert_close(torch.func.vmap(lambda one: module(one)[0])(value), expected)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(value[0])[0], expected[0])


@torch.no_grad()
def test_dtypes_that_are_computed_in_another():
    module = fastrnn.LSTM(5, 37, dtype=torch.float16).pack_weights()
    assert weights_read(module, torch.randn(9, 2, 5, dtype=torch.float16)) == {"packed"}
    module = fastrnn.LSTM(5, 37).pack_weights()
    value = torch.randn(9, 2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert weights_read(module, value) == {"packed"}


@torch.no_grad()
def test_older_names():
    module, value = fastrnn.GRU(5, 37), torch.randn(9, 2, 5)
    assert weights_read(module.freeze_weights(), value) == {"packed ahead"}
    assert weights_read(module.unfreeze_weights(), value) == {"packed"}
    fastrnn.Stream(module, freeze=False)
    assert weights_read(module, value) == {"packed"}
    fastrnn.Stream(module, freeze=True)
    assert weights_read(module, value) == {"packed ahead"}


def test_parametrized_weights_are_refused():
    module = weight_norm(fastrnn.LSTM(5, 37), "weight_hh_l0")
    with pytest.raises(RuntimeError, match=r"weight_hh_l0.*remove_parametrizations"):
        module.pack_weights()


def test_meta_tensors_are_left_alone():
    assert fastrnn.LSTM(5, 37, device="meta").pack_weights()._frozen is None


@pytest.mark.parametrize("frozen", (torch.zeros(3), torch.zeros(0, dtype=torch.float64)), ids=("size", "dtype"))
def test_op_refuses_what_it_did_not_pack(frozen):
    module, hx = fastrnn.GRU(5, 37), torch.zeros(1, 2, 37)
    with pytest.raises(RuntimeError, match="frozen"):
        torch.ops.fastrnn._gru_infer(torch.randn(9, 2, 5), hx, list(module.parameters()), None, False, False, frozen)
