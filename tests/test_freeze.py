"""pack_weights(): the same results from weights packed once, and never from stale ones that torch knows of."""

import copy
import io
import pickle
import subprocess
import sys

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


def w_hh(module):
    return next(weight for name, weight in module.named_parameters() if name.startswith("weight_hh"))


def another(module):
    """One whose parameters have other values, and counted as many versions."""
    return type(module)(5, 37)


def fresh_copy(module):
    fresh = another(module)
    fresh.load_state_dict(module.state_dict())
    return fresh


def replace_parameter(module):
    name = next(name for name in module.state_dict() if name.startswith("weight_hh"))
    setattr(module, name, nn.Parameter(getattr(module, name) * 2))


def assign_data_twice(module):
    """The second tensor would lie where the first one was, and no version counts either."""
    for _ in range(2):
        w_hh(module).data = w_hh(module) * 2


def load_by_swapping(module):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.load_state_dict(another(module).state_dict(), assign=True)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def step_of(name, **options):
    return lambda module: getattr(torch.optim, name)(module.parameters(), 0.1, **options).step()


CHANGES = {
    "in place": lambda module: w_hh(module).mul_(2),
    "in inference mode": torch.inference_mode()(lambda module: w_hh(module).mul_(2)),
    "a bias": lambda module: list(module.parameters())[-1].add_(1),
    "replaced": replace_parameter,
    "load_state_dict": lambda module: module.load_state_dict(another(module).state_dict()),
    "load_state_dict, assign": lambda module: module.load_state_dict(another(module).state_dict(), assign=True),
    "load_state_dict, swap": load_by_swapping,
    "to": lambda module: module.half().float(),
    "data": assign_data_twice,
    "swap_tensors": lambda module: torch.utils.swap_tensors(w_hh(module), w_hh(another(module))),
    "optimizer": step_of("SGD"),
    **{f"fused {name}": step_of(name, fused=True) for name in ("SGD", "Adam", "AdamW", "Adagrad")},
}


def with_gradients(module):
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    return module


@pytest.mark.parametrize("name", ("GRU", "GRUCell"))
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_no_stale_weights(name, change):
    module = with_gradients(getattr(fastrnn, name)(5, 37)).pack_weights()
    value = torch.randn(9, 5)
    change(module)
    fresh = fresh_copy(module)
    assert torch.equal(module(value)[0], fresh(value)[0])
    assert weights_read(module, value) == weights_read(fresh, value)
    assert weights_read(module.pack_weights(), value) == {"packed ahead"}
    torch.testing.assert_close(flatten(module(value)), flatten(fresh(value)))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_no_stale_weights_in_a_stream(change):
    module, value = with_gradients(fastrnn.GRU(5, 37)).eval(), torch.randn(3, 2, 5)
    stream = fastrnn.Stream(module)
    stream.step(value[0])
    state = stream.state
    change(module)
    stream.state = state
    output = torch.stack([stream.step(sample) for sample in value[1:]])
    torch.testing.assert_close(output, fresh_copy(module)(value[1:], state)[0])


@torch.no_grad()
def test_data_of_another_dtype():
    module, value = fastrnn.GRU(5, 37).pack_weights(), torch.randn(9, 2, 5, dtype=torch.float64)
    for parameter in module.parameters():
        parameter.data = parameter.double()
    fresh = fastrnn.GRU(5, 37, dtype=torch.float64)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(module(value)[0], fresh(value)[0])


OTHERS = {
    "another module's optimizer": lambda module: step_of("SGD")(with_gradients(fastrnn.GRU(2, 3))),
    "w_ih, which is not packed": lambda module: next(module.parameters()).mul_(2),
    "the same values": lambda module: module.load_state_dict(module.state_dict()),
    "data of the same values": lambda module: setattr(w_hh(module), "data", w_hh(module).clone()),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@torch.no_grad()
def test_what_changes_no_packed_weight_is_compared_once(change, monkeypatch):
    module, value, compared = fastrnn.GRU(5, 37).pack_weights(), torch.randn(9, 2, 5), []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda *tensors: [compared.append(1), equal(*tensors)][1])
    change(module)
    assert weights_read(module, value) == {"packed ahead"}
    once = len(compared)
    fresh = fresh_copy(module)
    assert equal(module(value)[0], fresh(value)[0])
    assert len(compared) == once <= 3


def transpose(module):
    w_hh(module).data = w_hh(module).data.t()


@torch.inference_mode()
def test_writes_to_what_was_made_in_inference_mode_go_unnoticed():
    module, value = fastrnn.RNN(5, 37).pack_weights(), torch.randn(9, 2, 5)
    before = module(value)[0]
    w_hh(module).mul_(2)
    assert torch.equal(module(value)[0], before)


UNNOTICED = {
    "data.add_": lambda module: w_hh(module).data.add_(1),
    "NumPy": lambda module: w_hh(module).detach().numpy().fill(1),
    "the same memory, in another order": transpose,
}


@pytest.mark.parametrize("change", UNNOTICED.values(), ids=UNNOTICED)
@torch.no_grad()
def test_what_the_docstring_says_goes_unnoticed(change):
    """If it is noticed one day, the docstring can promise more."""
    module, value = fastrnn.RNN(5, 37).pack_weights(), torch.randn(9, 2, 5)
    before = module(value)[0]
    change(module)
    assert torch.equal(module(value)[0], before)
    after = module.pack_weights()(value)[0]
    assert not torch.equal(after, before)


def test_training_goes_on():
    module, value = fastrnn.GRU(5, 37).pack_weights(), torch.randn(9, 2, 5)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    for _ in range(3):
        module(value)[0].sum().backward()
        optimizer.step()
    fresh = fresh_copy(module)
    with torch.no_grad():
        assert torch.equal(module(value)[0], fresh(value)[0])


def test_importing_and_making_layers_watches_no_optimizer():
    code = """
import torch, fastrnn
from torch.optim.optimizer import _global_optimizer_post_hooks as hooks
layer = fastrnn.LSTM(2, 3)
assert not hooks
for module in (layer, fastrnn.GRUCell(2, 3)):
    module.pack_weights()
assert len(hooks) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_compiled_optimizer_is_compiled_once():
    module, compiled = with_gradients(fastrnn.GRU(5, 37)), []
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    step = torch.compile(lambda: optimizer.step(), backend=lambda graph, _: [compiled.append(1), graph.forward][1])
    for _ in range(3):
        module.pack_weights()
        step()
        with torch.no_grad():
            assert weights_read(module, torch.randn(9, 2, 5)) == {"packed"}
    assert len(compiled) == 1


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


@torch.no_grad()
def test_plain_tensors_are_refused():
    module = fastrnn.LSTM(5, 37)
    weight = module.weight_hh_l0.detach()
    del module.weight_hh_l0
    module.weight_hh_l0 = weight
    with pytest.raises(RuntimeError, match=r"weight_hh_l0 is not a parameter.*make it a torch.nn.Parameter"):
        module.pack_weights()


UNSERVED = {
    "options": ({"zoneout": 0.1}, "has zoneout=0.1"),
    "dtype": ({"dtype": torch.float16}, "weights are torch.float16"),
    "device": ({"device": "meta"}, "weights are on meta"),
}


@pytest.mark.parametrize(("options", "reason"), UNSERVED.values(), ids=UNSERVED)
@torch.no_grad()
def test_warns_where_it_does_nothing(options, reason):
    module = fastrnn.LSTM(5, 37, **options)
    with pytest.warns(UserWarning, match=rf"LSTM: pack_weights\(\) has no effect.*{reason}.*Leave") as warned:
        assert module.pack_weights() is module
    assert warned[0].filename == __file__
    assert module._frozen is None


@by_dtype
def test_warns_of_nothing_else(dtype, recwarn):
    for name in (*LAYERS, *CELLS):
        getattr(fastrnn, name)(5, 37, dtype=dtype).pack_weights()
    fastrnn.Stream(fastrnn.LSTM(5, 37, zoneout=0.1))  # which packs by itself where that serves, and was not told to
    assert not recwarn.list


@torch.no_grad()
def test_explain_says_what_does_not_serve():
    value = torch.randn(9, 5)
    half = fastrnn.GRU(5, 37).half()
    assert "not packed ahead: the weights are torch.float16" in fastrnn.explain(half, value.half()).rows[0].reason
    step = fastrnn.GRUCell(5, 37).half()
    assert "not packed ahead: the weights are torch.float16" in fastrnn.explain(step, value.half()).rows[0].reason
    normed = weight_norm(fastrnn.GRU(5, 37), "weight_hh_l0")
    assert "not packed ahead: weight_hh_l0 is not a parameter" in fastrnn.explain(normed, value).rows[0].reason
    assert "not packed" not in str(fastrnn.explain(fastrnn.GRU(5, 37), value))


@pytest.mark.parametrize("frozen", (torch.zeros(3), torch.zeros(0, dtype=torch.float64)), ids=("size", "dtype"))
def test_op_refuses_what_it_did_not_pack(frozen):
    module, hx = fastrnn.GRU(5, 37), torch.zeros(1, 2, 37)
    weights = list(module.parameters())
    with pytest.raises(RuntimeError, match="packed is not what _pack made"):
        torch.ops.fastrnn._plain_infer("gru", [torch.randn(9, 2, 5), hx, *weights], None, False, False, frozen)
