"""Layers that are more than torch.nn's, against the Python loop that a user writes without them: sequence by sequence,
step by step, with detach(), register_hook() and the formulas of the papers."""

import itertools

import pytest
import torch
from cases import LAYERS, assert_same, outputs_and_gradients, randn
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import autograd

STEPS, BATCH, INPUT, HIDDEN = 6, 3, 3, 4
LENGTHS = (4, 6, 1)
# How a batch reaches forward().
LAYOUTS = ("batched", "batch_first", "unbatched", "packed", "lengths")
# Constructor keywords, one entry a feature; what "resets" and "states" are is asked for at the call.
FEATURES = {
    "resets": {},
    "states": {},
    "tbptt_steps": {"tbptt_steps": 2},
    "state_grad_clip": {"state_grad_clip": 0.02},
    "zoneout": {"zoneout": 0.3},
    "weight_dropout": {"weight_dropout": 0.4},
    "variational_dropout": {"variational_dropout": 0.4},
    "num_heads": {"num_heads": 2},
    "recompute": {"recompute": True},
    "everything": {
        "tbptt_steps": 3,
        "state_grad_clip": 0.05,
        "zoneout": 0.2,
        "weight_dropout": 0.3,
        "variational_dropout": 0.3,
        "num_heads": 2,
    },
}


def cell_step(layer, x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, h_factor):
    """One step of one sequence: h and c before zoneout."""
    gates_x, gates_h = w_ih @ x + b_ih, w_hh @ (h * h_factor) + b_hh
    if layer == "RNN":
        return torch.tanh(gates_x + gates_h), None
    if layer == "GRU":
        (xr, xz, xn), (hr, hz, hn) = gates_x.chunk(3), gates_h.chunk(3)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        return (1 - z) * torch.tanh(xn + r * hn) + z * h, None
    i, f, g, o = (gates_x + gates_h).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if w_hr is None else w_hr @ h), c


class Loop(nn.Module):
    """The layer `like`, as a user writes it. Random masks are those that the layer drew (see `drawn`)."""

    def __init__(self, like, layer):
        super().__init__()
        self.like, self.layer = like, layer
        self.options = like.options or fastrnn.modules.base.Options()

    def forward(self, input, hx, resets, reset_state, lengths, drawn):
        """Padded (T, B, I), states (L*D, B, .), resets (T, B) or None; a tuple of output, states and every step's c."""
        like, directions = self.like, 2 if self.like.bidirectional else 1
        finals, cells = [], None
        for index in range(like.num_layers):
            record = drawn[index]
            # Dropout between layers and on the input has been drawn: take the input that the layer saw.
            if record["input_factor"] is not None:
                input = input * record["input_factor"]
            outputs = []
            for direction in range(directions):
                at = index * directions + direction
                starts = [state[at] for state in hx]
                fresh = None if reset_state is None else [state[at] for state in reset_state]
                rows = [
                    self.run_sequence(
                        index, direction, b, input[:, b], [s[b] for s in starts], fresh and [s[b] for s in fresh],
                        None if resets is None else resets[:, b], lengths[b], record,
                    )
                    for b in range(input.shape[1])
                ]  # fmt: skip
                outputs.append([torch.stack([row[0] for row in rows], 1), torch.stack([row[1] for row in rows], 1)])
                finals.append([torch.stack([row[2][s] for row in rows]) for s in range(len(hx))])
            input, cells = (torch.cat([out[k] for out in outputs], -1) for k in (0, 1))
        return input, [torch.stack(state) for state in zip(*finals, strict=True)], cells

    def weights(self, index, direction, record):
        suffix = f"_l{index}" + "_reverse" * direction
        w_ih, w_hh, b_ih, b_hh = (
            getattr(self.like, kind + suffix) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        heads = self.options.num_heads
        if heads > 1:  # each gate's rows in turn: those of head k read h[k * size : (k + 1) * size]
            size = HIDDEN // heads
            whole = []
            for row in range(w_hh.shape[0]):
                head = row % HIDDEN // size
                parts = [torch.zeros_like(w_hh[row]) for _ in range(heads)]
                parts[head] = w_hh[row]
                whole.append(torch.cat(parts))
            w_hh = torch.stack(whole)
        if record["w_hh_factors"] is not None:
            w_hh = w_hh * record["w_hh_factors"][direction]
        return w_ih, w_hh, b_ih, b_hh, getattr(self.like, "weight_hr" + suffix) if self.like.proj_size else None

    def run_sequence(self, index, direction, b, input, states, fresh, resets, length, record):
        """One sequence in one direction: outputs and cs (T, .), zero from its length on, and the final states."""
        options, weights = self.options, self.weights(index, direction, record)
        h, c = states[0], states[1] if len(states) > 1 else None
        hs, cs = [torch.zeros_like(h)] * STEPS, [torch.zeros_like(h if c is None else c)] * STEPS
        order = range(length) if direction == 0 else reversed(range(length))
        replaced = False
        for done, t in enumerate(order):
            if direction == 0 and resets is not None and resets[t]:
                h, c, replaced = fresh[0], fresh[1] if c is not None else None, True
            # What comes from a reset state comes through no other step.
            if options.tbptt_steps and done and done % options.tbptt_steps == 0 and not replaced:
                h, c = h.detach(), None if c is None else c.detach()
            replaced = False
            if options.state_grad_clip:
                h, c = self.clipped(h), None if c is None else self.clipped(c)
            h_factor = 1 if record["h_mask"] is None else record["h_mask"][direction][b]
            new_h, new_c = cell_step(self.layer, input[t], h, c, *weights, h_factor)
            keep_h, keep_c = record["keep"](direction, t, b)
            h = keep_h * h + (1 - keep_h) * new_h
            if c is not None:
                c = keep_c * c + (1 - keep_c) * new_c
                cs[t] = c
            hs[t] = h
            if direction == 1 and resets is not None and resets[t]:
                h, c, replaced = fresh[0], fresh[1] if c is not None else None, True
        return torch.stack(hs), torch.stack(cs), [h] if c is None else [h, c]

    def clipped(self, state):
        limit, state = self.options.state_grad_clip, state * 1
        if state.requires_grad:
            state.register_hook(lambda grad: grad.clamp(-limit, limit))
        return state


class Recorder:
    """What the layers of a call drew, read from what reached the kernels."""

    def __init__(self, monkeypatch, like, order):
        self.calls, self.like, self.order = [], like, order
        for name in ("run_layer", "run_extended_layer"):
            monkeypatch.setattr(autograd, name, self.recording(getattr(autograd, name), name == "run_layer"))

    def recording(self, function, plain):
        def run(cell, input, states, *rest, **keywords):
            weights, extras = (rest[0], None) if plain else (rest[1], rest[4])
            self.calls.append((input.detach(), [w.detach() for w in weights], extras))
            return function(cell, input, states, *rest, **keywords)

        return run

    def drawn(self, place):
        """By layer, given the data row of (t, b)."""
        records = []
        for index, (_, weights, extras) in enumerate(self.calls):
            records.append(
                {
                    "input_factor": None,
                    "w_hh_factors": self.weight_factors(index, weights),
                    "h_mask": self.unsorted(extras.h_mask) if extras else None,
                    "keep": self.keeper(extras, place),
                }
            )
        return records

    def unsorted(self, mask):
        if mask is None:
            return None
        restored = torch.empty_like(mask)
        restored[:, self.order] = mask
        return restored

    def weight_factors(self, index, weights):
        if not (self.like.options and self.like.options.weight_dropout and self.like.training):
            return None
        p = self.like.options.weight_dropout
        directions = 2 if self.like.bidirectional else 1
        per = len(weights) // directions
        return [(weights[d * per + 1] != 0).double() / (1 - p) for d in range(directions)]

    def keeper(self, extras, place):
        def keep(direction, t, b):
            if extras is None:
                return 0, 0
            row = place(t, b)
            shares = zip((extras.kept_h, extras.kept_c), (extras.share_h, extras.share_c), strict=True)
            return [share if kept is None else kept[direction, row] for kept, share in shares]

        return keep


def build(layer, feature, training, **options):
    module = getattr(fastrnn, layer)(INPUT, HIDDEN, dtype=torch.float64, **FEATURES[feature], **options)
    return module.train(training)


def leaves_of(module, layer, layout, feature):
    directions = 2 if module.bidirectional else 1
    rows, batch = module.num_layers * directions, 1 if layout == "unbatched" else BATCH
    sizes = (module.proj_size or HIDDEN, HIDDEN)[: 2 if layer == "LSTM" else 1]
    leaves = {"input": randn(STEPS, batch, INPUT, dtype=torch.float64)}
    for name, size in zip(("hx", "cx"), sizes, strict=False):
        leaves[name] = randn(rows, batch, size, dtype=torch.float64)
        if feature in ("resets", "everything"):
            leaves[f"reset_{name}"] = randn(rows, batch, size, dtype=torch.float64)
    return leaves


def states_of(leaves, prefix=""):
    return [leaves[prefix + name] for name in ("hx", "cx") if prefix + name in leaves]


def as_called(states):
    return tuple(states) if len(states) == 2 else states[0] if states else None


def run_layer(module, leaves, layout, lengths, resets, return_states):
    """The module's call in its layout; a tuple of padded output, states and every step's c."""
    input, states, fresh = leaves["input"], states_of(leaves), states_of(leaves, "reset_")
    keywords = {"return_states": return_states} if return_states else {}
    if layout == "unbatched":
        input, states, fresh = input[:, 0], [s[:, 0] for s in states], [s[:, 0] for s in fresh]
        resets = None if resets is None else resets[:, 0]
    elif layout == "batch_first":
        input, resets = input.transpose(0, 1), None if resets is None else resets.t()
    elif layout == "packed":
        input = pack_padded_sequence(input, lengths, enforce_sorted=False)
    elif layout == "lengths":
        keywords["lengths"] = torch.tensor(lengths)
    if resets is not None:
        keywords |= {"resets": resets, "reset_state": as_called(fresh)}
    output, finals, *cells = module(input, as_called(states), **keywords)

    def padded(result):
        if isinstance(result, PackedSequence):
            return pad_packed_sequence(result, total_length=STEPS)[0]
        if layout == "batch_first":
            return result.transpose(0, 1)
        return result.unsqueeze(1) if layout == "unbatched" else result

    finals = finals if isinstance(finals, tuple) else (finals,)
    if layout == "unbatched":
        finals = [state.unsqueeze(1) for state in finals]
    return padded(output), tuple(finals), *map(padded, cells)


def rows_of_data(layout, lengths):
    """order: which sequence each row of the kernels' batch is; place(t, b): the row of the data at step t."""
    batch = len(lengths)
    order = sorted(range(batch), key=lambda b: -lengths[b]) if layout in ("packed", "lengths") else list(range(batch))
    rank = {b: row for row, b in enumerate(order)}

    def place(t, b):
        if layout != "packed":
            return t * batch + rank[b]
        return sum(sum(length > s for length in lengths) for s in range(t)) + rank[b]

    return order, place


def has_feature(layer, feature):
    return (feature != "states" or layer == "LSTM") and (feature != "recompute" or layer != "RNN")


CASES = [
    (layer, feature, layout, bidirectional, training)
    for layer, feature, layout, bidirectional, training in itertools.product(
        LAYERS, FEATURES, LAYOUTS, (False, True), (True, False)
    )
    # Only dropout differs between training and eval.
    if (training or "zoneout" in FEATURES[feature]) and has_feature(layer, feature)
]


@pytest.mark.parametrize(
    ("layer", "feature", "layout", "bidirectional", "training"),
    CASES,
    ids=[
        "-".join(map(str, (*case[:3], "both" if case[3] else "one", "train" if case[4] else "eval"))) for case in CASES
    ],
)
def test_equals_the_users_loop(layer, feature, layout, bidirectional, training, monkeypatch):
    options = {"bidirectional": bidirectional, "num_layers": 2, "batch_first": layout == "batch_first"}
    module = build(layer, feature, training, **options)
    lengths = LENGTHS if layout in ("packed", "lengths") else (STEPS,) * (1 if layout == "unbatched" else BATCH)
    has_resets = feature in ("resets", "everything")
    resets = torch.rand(STEPS, len(lengths)) < 0.4 if has_resets else None
    leaves = leaves_of(module, layer, layout, feature)
    return_states = feature in ("states", "everything") and layer == "LSTM"
    order, place = rows_of_data(layout, lengths)
    seed = int(torch.randint(2**31, ()))

    def ours(module, leaves):
        torch.manual_seed(seed)
        return run_layer(module, leaves, layout, lengths, resets, return_states)

    recorder = Recorder(monkeypatch, module, order)
    actual = outputs_and_gradients(module, leaves, ours)
    drawn = recorder.drawn(place)
    inputs_seen = [call[0] for call in recorder.calls]
    monkeypatch.undo()

    def theirs(module, leaves):
        fresh = states_of(leaves, "reset_") or None
        records = [dict(record) for record in drawn]
        if module.options and module.options.variational_dropout and training:
            factors = input_factors(module, inputs_seen, lengths, place)
            for record, factor in zip(records, factors, strict=True):
                record["input_factor"] = factor
        results = Loop(module, layer)(leaves["input"], states_of(leaves), resets, fresh, lengths, records)
        # States that were all replaced have a gradient, of zeros.
        nothing = sum(leaf.sum() for leaf in leaves.values()) * 0
        return results[0] + nothing, tuple(results[1]), *results[2:][: 1 if return_states else 0]

    expected = outputs_and_gradients(module, leaves, theirs)
    assert_same(expected, actual, 1e-11)


def input_factors(module, seen, lengths, place):
    """The masks of variational dropout on each layer's input: what the layer saw over what it was given."""
    p, factors = module.options.variational_dropout, []
    for data in seen:
        width = data.shape[-1]
        factor = torch.zeros(len(lengths), width, dtype=torch.float64)
        for b, length in enumerate(lengths):
            # A masked feature is 0 at every step; no other is.
            rows = torch.stack([data.reshape(-1, width)[place(t, b)] for t in range(length)])
            factor[b] = (rows != 0).any(0).double() / (1 - p)
        factors.append(factor)
    return factors


@pytest.mark.parametrize("layer", LAYERS)
def test_masks_have_their_probability(layer, monkeypatch):
    module = getattr(fastrnn, layer)(
        INPUT, 64, zoneout=(0.1, 0.5) if layer == "LSTM" else 0.1, variational_dropout=0.25, weight_dropout=0.4
    )
    recorder = Recorder(monkeypatch, module, range(BATCH))
    module(torch.randn(50, 30, INPUT))
    ((_, weights, extras),) = recorder.calls
    assert abs(extras.kept_h.mean() - 0.1) < 0.01
    assert extras.kept_c is None if layer != "LSTM" else abs(extras.kept_c.mean() - 0.5) < 0.01
    assert extras.h_mask.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert abs((weights[1] == 0).float().mean() - 0.4) < 0.05


class TestConstruction:
    @pytest.mark.parametrize("layer", LAYERS)
    def test_defaults_leave_repr_and_state_dict_alone(self, layer):
        plain = getattr(fastrnn, layer)(3, 4)
        ours = getattr(fastrnn, layer)(
            3, 4, tbptt_steps=None, state_grad_clip=None, zoneout=0.0, weight_dropout=0.0, variational_dropout=0.0,
            num_heads=1,
        )  # fmt: skip
        assert ours.options is None
        assert repr(ours) == repr(plain) == repr(getattr(nn, layer)(3, 4))

    def test_repr_keeps_what_is_set(self):
        layer = fastrnn.LSTM(3, 4, 2, tbptt_steps=5, zoneout=(0.1, 0.2))
        assert repr(layer) == "LSTM(3, 4, num_layers=2, tbptt_steps=5, zoneout=(0.1, 0.2))"

    @pytest.mark.parametrize(
        ("keywords", "error"),
        [
            ({"tbptt_steps": 0}, ValueError),
            ({"tbptt_steps": 2.0}, TypeError),
            ({"state_grad_clip": 0}, ValueError),
            ({"state_grad_clip": float("inf")}, ValueError),
            ({"zoneout": 1.5}, ValueError),
            ({"zoneout": (0.1, 0.2, 0.3)}, ValueError),
            ({"zoneout": (0.1, -0.2)}, ValueError),
            ({"weight_dropout": -0.1}, ValueError),
            ({"variational_dropout": "a"}, ValueError),
            ({"num_heads": 0}, ValueError),
            ({"num_heads": 3}, ValueError),
            ({"num_heads": 2, "proj_size": 2}, ValueError),
            ({"recompute": 1}, TypeError),
        ],
        ids=str,
    )
    def test_refused(self, keywords, error):
        with pytest.raises(error, match=next(iter(keywords))):
            fastrnn.LSTM(3, 4, **keywords)

    def test_an_rnn_has_nothing_to_recompute(self):
        with pytest.raises(ValueError, match="recompute"):
            fastrnn.RNN(3, 4, recompute=True)

    @pytest.mark.parametrize("layer", ("RNN", "GRU"))
    def test_pair_of_zoneouts_is_the_lstms(self, layer):
        with pytest.raises(ValueError, match="only the LSTM"):
            getattr(fastrnn, layer)(3, 4, zoneout=(0.1, 0.2))


class TestRefusedCalls:
    @pytest.fixture
    def call(self):
        return lambda **keywords: fastrnn.LSTM(3, 4)(torch.randn(5, 2, 3), **keywords)

    @pytest.mark.parametrize("resets", (torch.zeros(5, 2), [[True] * 2] * 5), ids=("float", "list"))
    def test_resets_of_another_type(self, call, resets):
        with pytest.raises(TypeError, match="resets must be a Tensor of bool"):
            call(resets=resets)

    @pytest.mark.parametrize("shape", ((2, 5), (5,), (5, 2, 1)))
    def test_resets_of_another_shape(self, call, shape):
        with pytest.raises(ValueError, match="resets must have shape"):
            call(resets=torch.zeros(shape, dtype=torch.bool))

    def test_reset_state_of_another_shape(self, call):
        state = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
        with pytest.raises(RuntimeError, match="reset_state must have hx's shape"):
            call(resets=torch.zeros(5, 2, dtype=torch.bool), reset_state=state)

    def test_reset_state_without_resets(self, call):
        with pytest.raises(ValueError, match="pass resets, too"):
            call(reset_state=(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))

    @pytest.mark.parametrize("layer", ("RNN", "GRU"))
    def test_return_states_of_a_layer_without_c(self, layer):
        with pytest.raises(ValueError, match="only the LSTM"):
            getattr(fastrnn, layer)(3, 4)(torch.randn(5, 2, 3), return_states=True)


def test_one_reset_state_for_all_sequences():
    layer = fastrnn.GRU(3, 4, 2)
    input, resets, state = torch.randn(5, 2, 3), torch.rand(5, 2) < 0.5, torch.randn(2, 1, 4, requires_grad=True)
    ours = layer(input, resets=resets, reset_state=state)
    theirs = layer(input, resets=resets, reset_state=state.expand(2, 2, 4))
    assert torch.equal(ours[0], theirs[0])
    assert torch.autograd.grad(ours[0].sum(), state)[0].shape == state.shape


def test_a_reset_at_the_first_step_leaves_hx_without_gradient():
    layer, hx = fastrnn.GRU(3, 4), torch.randn(1, 2, 4, requires_grad=True)
    resets = torch.tensor([[True, False]] + [[False, False]] * 4)
    output, _ = layer(torch.randn(5, 2, 3), hx, resets=resets)
    grad = torch.autograd.grad(output.sum(), hx)[0]
    assert (grad[0, 0] == 0).all()
    assert (grad[0, 1] != 0).all()


@pytest.mark.parametrize(
    ("layer", "feature"), [pair for pair in itertools.product(LAYERS, FEATURES) if has_feature(*pair)]
)
def test_compiles_without_graph_breaks(layer, feature):
    torch._dynamo.reset()
    module = build(layer, feature, True, bidirectional=True)
    resets = torch.rand(STEPS, BATCH) < 0.4 if feature in ("resets", "everything") else None
    leaves = leaves_of(module, layer, "batched", feature)
    lengths = torch.tensor(LENGTHS)

    def run(module, leaves):
        torch.manual_seed(0)
        keywords = {"lengths": lengths}
        if resets is not None:
            keywords |= {"resets": resets, "reset_state": as_called(states_of(leaves, "reset_"))}
        if feature == "states":
            keywords["return_states"] = True
        return module(leaves["input"], as_called(states_of(leaves)), **keywords)

    expected = outputs_and_gradients(module, leaves, run)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = outputs_and_gradients(compiled, leaves, run)
    assert_same(expected, {name.replace("_orig_mod.", ""): value for name, value in actual.items()}, 1e-12)


def test_masks_follow_manual_seed():
    module, input = build("LSTM", "everything", True), randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(module(input)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


class SavedBytes:
    """Bytes that autograd keeps of a call, each tensor once, but for `but`."""

    def __init__(self, *but):
        self.but, self.kept = {tensor.untyped_storage().data_ptr() for tensor in but}, {}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.but:
            self.kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __exit__(self, *exception):
        self.hooks.__exit__(*exception)

    @property
    def total(self):
        return sum(self.kept.values())


@pytest.mark.parametrize("layer", ("LSTM", "GRU"))
@pytest.mark.parametrize("keywords", ({}, {"zoneout": 0.1}), ids=("plain", "zoneout"))
def test_recompute_keeps_the_states_alone(layer, keywords):
    input, totals = torch.randn(20, 4, 8), {}
    for recompute in (False, True):
        module = getattr(fastrnn, layer)(8, 16, recompute=recompute, **keywords)
        with SavedBytes(input, *module.parameters()) as saved:
            output, _ = module(input)
        # What zoneout drew is kept either way.
        masks = (2 if layer == "LSTM" else 1) * output.numel() * 4 if keywords else 0
        totals[recompute] = saved.total - masks - (0 if recompute else output.numel() * 4)
        output.sum().backward()
    assert totals[True] <= 0.4 * totals[False]
