"""The cells of papers that fastrnn ships, each against a loop written from its paper, in float64."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import fastrnn

T, B, H = 6, 3, 4
LENGTHS = (4, 6, 1)
INPUT_SIZES = {"SRU": (3, H)}  # projected to the output, or as it is


def li_gru(p, x, h):
    z_x, a_x = (p["weight_ih"] @ x + p["bias_ih"]).chunk(2)
    z_h, a_h = (p["weight_hh"] @ h + p["bias_hh"]).chunk(2)
    z = 1 / (1 + torch.exp(-z_x - z_h))
    h = z * h + (1 - z) * (a_x + a_h).clamp(min=0)
    return h, (h,)


def ind_rnn(activation):
    def step(p, x, h):
        h = activation(p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"][0] * h)
        return h, (h,)

    return step


def g(x):
    return torch.where(x >= 0, x + 0.5, 1 / (1 + torch.exp(-x)))


def min_gru(p, x, h):
    z, candidate = (p["weight_ih"] @ x + p["bias_ih"]).chunk(2)
    z = torch.sigmoid(z)
    h = (1 - z) * h + z * g(candidate)
    return h, (h,)


def min_lstm(p, x, h):
    f, i, candidate = (p["weight_ih"] @ x + p["bias_ih"]).chunk(3)
    f, i = torch.sigmoid(f), torch.sigmoid(i)
    h = f / (f + i) * h + i / (f + i) * g(candidate)
    return h, (h,)


def sru(p, x, c):
    w_f, w_r, w_c, *w_x = p["weight_ih"].split(H)
    b_f, b_r, b_c = p["bias_ih"].chunk(3)
    f = torch.sigmoid(w_f @ x + p["v_f"] * c + b_f)
    r = torch.sigmoid(w_r @ x + p["v_r"] * c + b_r)
    c = f * c + (1 - f) * (w_c @ x + b_c)
    return r * c + (1 - r) * (w_x[0] @ x if w_x else x), (c,)


def slstm(forget):
    """Without the stabiliser: its m is only what the layer's c and n are scaled by."""

    def step(p, x, h, c, n, m):
        i, f, z, o = (p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] @ h + p["bias_hh"]).chunk(4)
        m = i if (n == 0).all() else torch.maximum(torch.log(forget(f)) + m, i)
        c = forget(f) * c + torch.exp(i) * torch.tanh(z)
        n = forget(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        return h, (h, c, n, m)

    return step


SLSTM_STATES = ("h", "c", "n", "m")
CELLS = {
    "LiGRU": (fastrnn.LiGRU, {}, li_gru),
    "IndRNN relu": (fastrnn.IndRNN, {}, ind_rnn(torch.relu)),
    "IndRNN tanh": (fastrnn.IndRNN, {"nonlinearity": "tanh"}, ind_rnn(torch.tanh)),
    "MinGRU": (fastrnn.MinGRU, {}, min_gru),
    "MinLSTM": (fastrnn.MinLSTM, {}, min_lstm),
    "SRU": (fastrnn.SRU, {}, sru),
    "SLSTM sigmoid": (fastrnn.SLSTM, {}, slstm(torch.sigmoid)),
    "SLSTM exp": (fastrnn.SLSTM, {"forget_gate": "exp"}, slstm(torch.exp)),
}
SHAPES = {
    "LiGRU": {"weight_ih": (2 * H, 3), "weight_hh": (2 * H, H), "bias_ih": (2 * H,), "bias_hh": (2 * H,)},
    "IndRNN": {"weight_ih": (H, 3), "weight_hh": (1, H), "bias_ih": (H,)},
    "MinGRU": {"weight_ih": (2 * H, 3), "bias_ih": (2 * H,)},
    "MinLSTM": {"weight_ih": (3 * H, 3), "bias_ih": (3 * H,)},
    "SRU": {"weight_ih": (4 * H, 3), "bias_ih": (3 * H,), "v_f": (H,), "v_r": (H,)},
    "SLSTM": {"weight_ih": (4 * H, 3), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)},
}
WITH_SIZES = [(name, size) for name in CELLS for size in INPUT_SIZES.get(name, (3,))]


def make(name, *sizes, **kwargs):
    kind, choice, _ = CELLS[name]
    return kind(*sizes, dtype=torch.float64, **choice, **kwargs)


def in_scale(states):
    """An sLSTM's c and n without the scale of m, as the paper's equations have them; other states as they are."""
    if len(states) < len(SLSTM_STATES):
        return states
    h, c, n, m = states
    return h, c * m.exp(), n * m.exp(), m


def direction(name, layer, ending, x, states):
    """One direction of a layer over one sequence (T, I)."""
    step = CELLS[name][2]
    parameters = {key.removesuffix(ending): value for key, value in layer.named_parameters() if key.endswith(ending)}
    outputs = []
    for row in x:
        output, states = step(parameters, row, *states)
        outputs.append(output)
    return torch.stack(outputs), states


def states_of(layer):
    return 4 if isinstance(layer, fastrnn.SLSTM) else 1


@pytest.mark.parametrize(("name", "size"), WITH_SIZES)
def test_equals_the_paper(name, size):
    layer = make(name, size, H)
    x = torch.randn(T, B, size, dtype=torch.float64, requires_grad=True)
    output, hy = layer(x)
    hy = in_scale(hy if isinstance(hy, tuple) else (hy,))

    zeros = [torch.zeros(H, dtype=torch.float64)] * len(hy)
    runs = [direction(name, layer, "_l0", x[:, b], zeros) for b in range(B)]
    expected = torch.stack([run[0] for run in runs], 1)
    expected_hy = [torch.stack(states).unsqueeze(0) for states in zip(*(run[1] for run in runs), strict=True)]
    torch.testing.assert_close((output, *hy), (expected, *expected_hy))

    leaves = [x, *layer.parameters()]
    weights = [torch.randn_like(result) for result in (output, *hy)]
    ours = sum((w * result).sum() for w, result in zip(weights, (output, *hy), strict=True))
    theirs = sum((w * result).sum() for w, result in zip(weights, (expected, *expected_hy), strict=True))
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves))


@pytest.mark.parametrize("name", CELLS)
def test_runs_on_kernels(name):
    rows = fastrnn.explain(make(name, 3, H), torch.randn(T, B, 3, dtype=torch.float64)).rows
    assert rows
    assert all(row.path != "none" for row in rows), rows


@pytest.mark.parametrize("name", CELLS)
def test_two_layers_both_ways_with_lengths(name):
    layer = make(name, 3, H, num_layers=2, bidirectional=True)
    x = torch.randn(T, B, 3, dtype=torch.float64)
    output, _ = layer(x, lengths=LENGTHS)
    zeros = [torch.zeros(H, dtype=torch.float64)] * states_of(layer)
    for b, length in enumerate(LENGTHS):
        row = x[:length, b]
        for k in range(2):
            forward, _ = direction(name, layer, f"_l{k}", row, zeros)
            reverse, _ = direction(name, layer, f"_l{k}_reverse", row.flip(0), zeros)
            row = torch.cat([forward, reverse.flip(0)], -1)
        torch.testing.assert_close(output[:length, b], row)
        assert not output[length:, b].any()


@pytest.mark.gradcheck
@pytest.mark.parametrize(("name", "size"), WITH_SIZES)
def test_gradcheck(name, size):
    layer = make(name, size, H)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(3, 2, size, dtype=torch.float64, requires_grad=True)
    # An sLSTM's n is positive, and no max is at a tie.
    states = [
        torch.rand(1, 2, H, dtype=torch.float64).add_(0.5).requires_grad_() for _ in range(states_of(layer))
    ]  # fmt: skip

    def run(x, *rest):
        states, weights = rest[: len(states_given)], rest[len(states_given) :]
        hx = tuple(states) if len(states) > 1 else states[0]
        output, hy = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, hx))
        return output, *(hy if isinstance(hy, tuple) else (hy,))

    states_given = states
    assert torch.autograd.gradcheck(run, (x, *states, *parameters))


@pytest.mark.parametrize("name", SHAPES)
def test_parameters(name):
    layer = getattr(fastrnn, name)(3, H)
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == {
        f"{key}_l0": shape for key, shape in SHAPES[name].items()
    }
    step = getattr(fastrnn, name).Cell(3, H)
    assert {key: tuple(value.shape) for key, value in step.state_dict().items()} == SHAPES[name]


@pytest.mark.parametrize("name", CELLS)
def test_cell_is_a_step_of_the_layer(name):
    kind, choice, _ = CELLS[name]
    layer = make(name, 3, H)
    step = kind.Cell(3, H, dtype=torch.float64, **choice)
    step.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
    x = torch.randn(B, 3, dtype=torch.float64)
    output, hy = layer(x.unsqueeze(0))
    result = step(x)
    if name == "SRU":
        torch.testing.assert_close(result, (output[0], hy[0]))
    else:
        torch.testing.assert_close(result, tuple(s[0] for s in hy) if isinstance(hy, tuple) else hy[0])


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("duplicate", (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))))
def test_copies(name, duplicate):
    layer = make(name, 3, H)
    twin = duplicate(layer)
    assert type(twin) is type(layer)
    assert repr(twin) == repr(layer)
    x = torch.randn(T, B, 3, dtype=torch.float64)
    torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("forget_gate", ("sigmoid", "exp"))
@pytest.mark.parametrize("i", (-2000, 0, 2000))
@pytest.mark.parametrize("f", (-2000, 0, 2000))
def test_slstm_is_stable(forget_gate, i, f):
    layer = make(f"SLSTM {forget_gate}", 3, H)
    with torch.no_grad():
        layer.bias_ih_l0[: 2 * H] = torch.tensor([i, f], dtype=torch.float64).repeat_interleave(H)
    x = torch.randn(50, B, 3, dtype=torch.float64, requires_grad=True)
    output, hy, states = layer(x, return_states=True)
    assert all(result.isfinite().all() for result in (output, *hy, *states))
    assert states[2].min() >= 1
    assert output.abs().max() <= 1  # c / n is a mean of tanh
    gradients = torch.autograd.grad(output.sum(), [x, *layer.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("low", (0, -2000))
def test_min_lstm_is_stable(low):
    layer = make("MinLSTM", 3, H)
    with torch.no_grad():
        layer.bias_ih_l0[: 2 * H] += low
    x = torch.randn(T, B, 3, dtype=torch.float64)
    output, _ = layer(x)
    assert (output > 0).all()
    f, i, candidate = F.linear(x[0], layer.weight_ih_l0, layer.bias_ih_l0).chunk(3, -1)
    # sigmoid(a) / (sigmoid(a) + sigmoid(b)) tends to exp(a) / (exp(a) + exp(b)).
    share = torch.sigmoid(i - f) if low else torch.sigmoid(i) / (torch.sigmoid(f) + torch.sigmoid(i))
    torch.testing.assert_close(output[0], share * g(candidate))


def test_slstm_has_heads():
    layer = make("SLSTM sigmoid", 3, H, num_heads=2)
    whole = make("SLSTM sigmoid", 3, H)
    blocks = layer.weight_hh_l0.detach().unflatten(0, (4, 2, 2))
    whole.load_state_dict(
        {**layer.state_dict(), "weight_hh_l0": torch.cat([torch.block_diag(*gate) for gate in blocks])}
    )
    x = torch.randn(T, B, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), whole(x))


@pytest.mark.parametrize(
    ("kind", "keyword", "names"),
    ((fastrnn.IndRNN, "nonlinearity", "'relu', 'tanh'"), (fastrnn.SLSTM, "forget_gate", "'sigmoid', 'exp'")),
)
def test_keyword(kind, keyword, names):
    with pytest.raises(ValueError, match=f"{kind.__name__}: {keyword} must be one of {names}, got 'gelu'"):
        kind(3, H, **{keyword: "gelu"})
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.Cell: {keyword} must be one of {names}, got 'gelu'"):
        kind.Cell(3, H, **{keyword: "gelu"})
    with pytest.raises(AttributeError, match=keyword):
        setattr(kind(3, H), keyword, "tanh")
    first, second = (name.strip("' ") for name in names.split(","))
    assert f"{keyword}={first!r}" in repr(kind(3, H))
    assert kind.source() == kind.source(first) != kind.source(second)
