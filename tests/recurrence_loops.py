"""The Python loops that users write for want of a layer that does it, and what is needed to run a layer beside one."""

import itertools

import torch
from cases import randn
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn._ops import autograd

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
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "reset_before": {"reset_after": False},
    "layer_norm": {"layer_norm": True},
    "variant": {"zoneout": 0.2, "variational_dropout": 0.3, "num_heads": 2, "recompute": True},  # with what is below
    "normalized": {"layer_norm": True, "zoneout": 0.2, "num_heads": 2, "tbptt_steps": 3, "state_grad_clip": 0.05},
    "everything": {
        "tbptt_steps": 3,
        "state_grad_clip": 0.05,
        "zoneout": 0.2,
        "weight_dropout": 0.3,
        "variational_dropout": 0.3,
        "num_heads": 2,
    },
}


# What else makes a layer's cell another one.
VARIANTS = {
    "variant": {"LSTM": {"peephole": True, "coupled": True}, "GRU": {"reset_after": False}},
    "normalized": {"LSTM": {"peephole": True, "coupled": True}},
}


def has_feature(layer, feature):
    """Whether the layer takes the feature's keywords."""
    only = {"states": ("LSTM",), "peephole": ("LSTM",), "coupled": ("LSTM",), "reset_before": ("GRU",)}
    return layer in only.get(
        feature, ("LSTM", "GRU") if feature in ("recompute", "variant") else ("RNN", "LSTM", "GRU")
    )


def normalized(x, gain, bias=0.0):
    deviation = x - x.mean()
    return gain * deviation / torch.sqrt((deviation * deviation).mean() + 1e-5) + bias


def cell_step(layer, options, x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, w_c, norm, h_factor):
    """One step of one sequence: h and c before zoneout."""
    if not options.reset_after:
        size = h.shape[0]
        (xr, xz, xn), (br, bz, bn), masked = (w_ih @ x + b_ih).chunk(3), b_hh.chunk(3), h * h_factor
        r = torch.sigmoid(xr + w_hh[:size] @ masked + br)
        z = torch.sigmoid(xz + w_hh[size : 2 * size] @ masked + bz)
        return (1 - z) * torch.tanh(xn + w_hh[2 * size :] @ (r * masked) + bn) + z * h, None
    gates_x, gates_h = w_ih @ x, w_hh @ (h * h_factor)
    if options.layer_norm:
        gates_x, gates_h = normalized(gates_x, norm["ih"]), normalized(gates_h, norm["hh"])
    gates_x, gates_h = gates_x + b_ih, gates_h + b_hh
    if layer == "RNN":
        return torch.tanh(gates_x + gates_h), None
    if layer == "GRU":
        (xr, xz, xn), (hr, hz, hn) = gates_x.chunk(3), gates_h.chunk(3)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        return (1 - z) * torch.tanh(xn + r * hn) + z * h, None
    i, *f, g, o = (gates_x + gates_h).chunk(3 if options.coupled else 4)
    see_i, *see_f, see_o = w_c if options.peephole else [torch.zeros_like(c)] * (2 if options.coupled else 3)
    i = torch.sigmoid(i + see_i * c)
    forget = 1 - i if options.coupled else torch.sigmoid(f[0] + see_f[0] * c)
    c = forget * c + i * torch.tanh(g)
    seen = normalized(c, norm["c_weight"], norm["c_bias"]) if options.layer_norm else c
    h = torch.sigmoid(o + see_o * c) * torch.tanh(seen)
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
        w_hr = getattr(self.like, "weight_hr" + suffix) if self.like.proj_size else None
        w_c = getattr(self.like, "weight_c" + suffix) if self.options.peephole else None
        norm = {}
        if self.options.layer_norm:
            norm = {"ih": getattr(self.like, "ln_ih" + suffix), "hh": getattr(self.like, "ln_hh" + suffix)}
            if self.layer == "LSTM":
                norm |= {f"c_{kind}": getattr(self.like, f"ln_c{suffix}_{kind}") for kind in ("weight", "bias")}
        return w_ih, w_hh, b_ih, b_hh, w_hr, w_c, norm

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
            new_h, new_c = cell_step(self.layer, options, input[t], h, c, *weights, h_factor)
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
        run = autograd.run

        def recording(cell, input, states, weights, *settings):
            extras = settings[3] if len(settings) > 3 else None
            self.calls.append((input.detach(), [w.detach() for w in weights], extras))
            return run(cell, input, states, weights, *settings)

        monkeypatch.setattr(autograd, "run", recording)

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
            both = itertools.zip_longest(extras.kept, extras.shares)
            found = [(share or 0) if kept is None else kept[direction, row] for kept, share in both]
            return [*found, 0, 0][:2]

        return keep


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


def build(layer, feature, training, **options):
    keywords = FEATURES[feature] | options | VARIANTS.get(feature, {}).get(layer, {})
    module = getattr(fastrnn, layer)(INPUT, HIDDEN, dtype=torch.float64, **keywords)
    for name, parameter in module.named_parameters():
        if name.startswith("ln_"):  # gains of 1 and a bias of 0 would hide which is which
            nn.init.uniform_(parameter, 0.5, 1.5)
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
        if layout not in ("packed", "lengths"):  # on the CPU a batch with lengths is packed, too
            return t * batch + rank[b]
        return sum(sum(length > s for length in lengths) for s in range(t)) + rank[b]

    return order, place


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
