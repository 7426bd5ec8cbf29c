"""What RNN, LSTM and GRU share, and what their cells share: torch.nn's constructors and parameters, our forward.

The bases are nn.RNNBase and nn.RNNCellBase, not nn.RNN, nn.LSTM or nn.GRU: Dynamo breaks the graph at instances of
those. The price: ``isinstance(layer, nn.LSTM)`` is False. For code that asks, ``fastrnn.adopted`` has what is both.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from .._call import checks
from .._call.modifiers import Modifiers
from .._call.ragged import Lengths
from .._call.run import run_cell, run_stack
from .._ops.cells import CELLS
from .._options import DEFAULTS, NAMES, Options
from ..reference import States
from . import per_sample
from .opacus_hooks import OpacusHooks
from .weights import Packing, current_weights


class Refusals:
    """What torch does to its own layers and cannot do to ours: a clear error in place of nonsense."""

    _has_twin: ClassVar[bool] = True  # torch.nn has the same, which fastrnn.to_torch makes

    def __prepare_scriptable__(self) -> nn.Module:
        """torch.jit.script calls this hook on every module before it reads any source."""
        name = type(self).__name__
        or_else = "; or make the model torch.nn's: fastrnn.to_torch(model)" if self._has_twin else ""
        raise NotImplementedError(
            f"torch.jit.script cannot compile {name}, a fastrnn module. Use torch.compile or torch.export{or_else}"
        )

    # torch.ao.quantization assigns ``qconfig`` to every module: a setting where the caller's settings name the module,
    # its type or a parent, None elsewhere. What is there already comes first, so ``layer.qconfig = None`` opts out.

    @property
    def qconfig(self) -> None:
        """None once torch.ao.quantization was told to leave this module alone, else missing."""
        if "qconfig" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no qconfig: fastrnn has no quantized modules")

    @qconfig.setter
    def qconfig(self, value: object) -> None:
        name = type(self).__name__
        remedy = "torch.nn has no layer like it"
        if self._has_twin:
            remedy = (
                "fastrnn.pack(model, dtype=torch.int8) rounds its weights to int8 instead. To quantize it as torch "
                "does, make it torch.nn's first: fastrnn.to_torch(model)"
            )
        if value is not None:
            raise NotImplementedError(
                f"{name}, a fastrnn module, cannot be quantized by torch.ao.quantization. {remedy}; to leave it in "
                "floating point, set its qconfig to None"
            )
        if "qconfig" not in self.__dict__:
            # Past nn.Module's __setattr__, and that of layers.
            level = 4 if isinstance(self, Layer) else 3
            warnings.warn(f"{name}, a fastrnn module, stays in floating point. {remedy}", stacklevel=level)
        self.__dict__["qconfig"] = None

    @qconfig.deleter
    def qconfig(self) -> None:
        self.__dict__.pop("qconfig", None)


def is_traced(given: Any) -> bool:
    """Whether torch.fx traces the call, so that an input or state is its proxy."""
    return isinstance(given[0] if isinstance(given, (tuple, list)) and given else given, Proxy)


def traced_call(module: nn.Module, input: Any, hx: Any, **others: Any) -> Any:
    """The call as one node of a torch.fx graph, as calls of torch.nn's layers are.

    fx takes modules for leaves whose class is in torch.nn, and calls all others to look inside. Ours answer for
    themselves, so that no Tracer of one's own is needed.
    """
    tracer: Any = next(leaf for leaf in tree_leaves((input, hx)) if isinstance(leaf, Proxy)).tracer
    path = tracer.path_of_module(module)
    if not path:
        raise TraceError(
            f"torch.fx cannot look into {type(module).__name__}, a fastrnn module, only around it. Trace a module that "
            "holds it, for instance torch.nn.Sequential"
        )
    given = {name: value for name, value in others.items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", path, (input,) if hx is None else (input, hx), given)


def check_bidirectional(value: object) -> None:
    """Torch.nn finds out at the first call."""
    if not isinstance(value, bool):
        raise TypeError(f"bidirectional should be of type bool, got: {type(value).__name__}")


# What torch.nn's constructor takes by name.
_KEYWORDS = tuple(inspect.signature(nn.RNNBase.__init__).parameters)[2:]

# Where our forwards are.
_HOMES = (f"{__package__}.layers", f"{__package__}.own")


class Layer(Refusals, OpacusHooks, Packing, nn.RNNBase):
    """Base of RNN, LSTM and GRU. Use those.

    No flat weight buffer: weights are looked up by name at each call, so ``.data`` assignment, weight_norm, pruning,
    parametrizations, ``functional_call``, meta tensors and deepcopy all work and none needs ``flatten_parameters``.
    """

    __jit_unused_properties__: ClassVar = ["all_weights", "_flat_weights", "qconfig"]  # type: ignore[misc]

    _flat_weights_names: list[str]

    _options: Options | None = None

    _joins: ClassVar[bool] = False  # whether weights of single units become one tensor at each call

    _assigned: tuple[list[Tensor], list[Tensor | None]] | None = None  # to _flat_weights, and the attributes then

    def __init__(self, mode: str, *args: Any, **kwargs: Any) -> None:
        name = checks.LAYER_NAMES[mode.lower()]
        options = Options.take(name, kwargs, _KEYWORDS)
        nn.RNNBase.__init__(self, mode, *args, **kwargs)  # by name: behind us may be nn.LSTM, too (fastrnn.adopted)
        check_bidirectional(self.bidirectional)
        if options is not None:
            self._check_options(options)
            self._options = options
            if options.num_heads > 1 or options.coupled or options.peephole or options.layer_norm:
                self._fit_weights(options)
                self.reset_parameters()

    @property
    def options(self) -> Options | None:
        """What the layer is more than torch.nn's, None if nothing; :class:`fastrnn.Options` tells how to change it."""
        return self._options

    @options.setter
    def options(self, options: Options | None) -> None:
        new = options or DEFAULTS
        self._check_options(new)
        (self._options or DEFAULTS).check_change(new)
        self._options = None if new == DEFAULTS else new

    def _check_options(self, options: Options) -> None:
        """Raise ValueError if the layer cannot have them."""
        options.check_layer(checks.LAYER_NAMES[self.mode.lower()], self.hidden_size, self.proj_size)

    def _fit_weights(self, options: Options) -> None:
        """The weights that the options ask for, not yet drawn."""
        cell, units = options.cell(self.mode), self.hidden_size
        _, gates, states, _, peepholes, *_ = CELLS[cell]
        for name in self._flat_weights_names:
            weight = getattr(self, name)
            rows = weight.shape[0] if name.startswith("weight_hr") else gates * units
            columns = weight.shape[1:]
            if name.startswith("weight_hh"):
                columns = (columns[0] // options.num_heads,)
            setattr(self, name, nn.Parameter(weight.new_empty(rows, *columns)))
        shapes: dict[str, tuple[int, ...]] = {}
        if options.peephole:
            shapes["weight_c_{}"] = (peepholes, units)
        if options.layer_norm:
            shapes |= {"ln_ih_{}": (gates * units,), "ln_hh_{}": (gates * units,)}
            if states > 1:
                shapes |= {"ln_c_{}_weight": (units,), "ln_c_{}_bias": (units,)}
        for index, names in enumerate(self._all_weights):
            layer, reverse = divmod(index, 2 if self.bidirectional else 1)
            for pattern, shape in shapes.items():
                name = pattern.format(f"l{layer}" + "_reverse" * reverse)
                self.register_parameter(name, nn.Parameter(getattr(self, names[0]).new_empty(shape)))
                names.append(name)
        self._flat_weights_names = [name for names in self._all_weights for name in names]

    def reset_parameters(self) -> None:
        """As torch.nn draws them; layer normalisation starts with gains of 1 and a bias of 0."""
        super().reset_parameters()
        for name, weight in self.named_parameters():
            if name.startswith("ln_"):
                nn.init.constant_(weight, 0.0 if name.endswith("_bias") else 1.0)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", {self._options}" if self._options is not None else "")

    def _current_weights(self) -> list[Tensor]:
        """The weights as they are now, in torch's order; never cached, or parametrizations would go stale."""
        if self._assigned is not None:
            assigned, attributes = self._assigned
            now = self._named()
            if all(weight is None or weight is then for weight, then in zip(now, attributes, strict=True)):
                return assigned
            self._assigned = None
        return current_weights(self, self._flat_weights_names)

    def _named(self) -> list[Tensor | None]:
        """What the names of the weights stand for; None where there is no such attribute."""
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @property
    def _flat_weights(self) -> list[Any]:
        """The weights of the next call. Code that drops weights assigns a list of its own, as torch.nn lets it: that is
        computed with, for as long as the attributes stay what they were, and until to() and the like."""
        return self._current_weights()

    @_flat_weights.setter
    def _flat_weights(self, weights: list[Any]) -> None:
        assigned, attributes = list(weights), self._named()
        same = len(assigned) == len(attributes) and all(map(operator.is_, assigned, attributes))
        self._assigned = None if same else (assigned, attributes)

    def _init_flat_weights(self) -> None:
        """To the attributes again: at construction, and after to() and the like."""
        self._assigned = None

    def _update_flat_weights(self) -> None:
        """Nothing to keep."""

    def flatten_parameters(self) -> None:
        """Does nothing: our kernels take each weight where it lies."""

    def __setattr__(self, attr: str, value: Any) -> None:
        if attr in NAMES:
            self._refuse_option(attr, value)
        elif attr in ("bias", "nonlinearity") and "_flat_weights_names" in self.__dict__:
            self._refuse_change(attr, value)
        # Past nn.RNNBase, which sees to its list of weights; not to nn.Module, or classes between them are left out.
        super(nn.RNNBase, self).__setattr__(attr, value)

    def _refuse_option(self, option: str, value: Any) -> None:
        """An option that is assigned would be ignored: what runs is ``options``.

        A subclass may have something of its own by that name, ``self.layer_norm = nn.LayerNorm(8)``: modules pass, and
        where forward is the subclass's, who knows what it reads.
        """
        if isinstance(value, nn.Module) or getattr(type(self).forward, "__module__", None) not in _HOMES:
            return
        name = checks.LAYER_NAMES[self.mode.lower()]
        raise AttributeError(
            f"{name}: {option} is one of the layer's options, which are changed together: "
            f"layer.options = dataclasses.replace(layer.options or fastrnn.Options(), {option}={value!r})"
        )

    def _refuse_change(self, setting: str, value: Any) -> None:
        """Of torch.nn's settings, these two are only read at construction. The others take effect, or the call raises
        if the weights don't fit."""
        old = self.__dict__.get(setting)
        if isinstance(value, type(old)) and value != old:
            name = checks.LAYER_NAMES[self.mode.lower()]
            raise AttributeError(f"{name}: {setting} is fixed at construction. Make a new layer: {setting}={value!r}")

    # nn.RNNBase overrides these, too, for its list of weights alone.

    def __setstate__(self, state: dict[str, Any]) -> None:
        super(nn.RNNBase, self).__setstate__(state)

    def __getstate__(self) -> dict[str, Any]:
        return self._without_packed(super(nn.RNNBase, self).__getstate__())

    def _replicate_for_data_parallel(self) -> Layer:
        return super(nn.RNNBase, self)._replicate_for_data_parallel()

    def _run(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | Sequence[Tensor] | None,
        lengths: Lengths | None,
        resets: Tensor | None,
        reset_state: Tensor | Sequence[Tensor] | None,
        return_states: bool = False,
    ) -> tuple[Tensor | PackedSequence, tuple[Any, ...]]:
        if isinstance(input, Proxy) or (hx is not None and is_traced(hx)):
            others = {"lengths": lengths, "resets": resets, "reset_state": reset_state, "return_states": return_states}
            call = traced_call(self, input, hx, **others)
            count = CELLS[self.mode.lower()].given_states
            states = (call[1],) if count == 1 else tuple([call[1][index] for index in range(count)])
            return call[0], (*states, call[2]) if return_states else states
        # Not through the property: nn.Module would blame a missing weight's AttributeError on the property itself.
        weights = (
            self._current_weights() if self._assigned is not None else current_weights(self, self._flat_weights_names)
        )
        modifiers = self._modifiers(resets, reset_state, return_states)
        try:
            if self._joins:
                return run_stack(self, input, hx, self._joined(weights), lengths, modifiers=modifiers)
            frozen = self._frozen_weights(weights, modifiers is None)
            return run_stack(self, input, hx, weights, lengths, frozen, modifiers)
        except RuntimeError:  # what torch's ExpandedWeight raises at the first question; asking costs every call
            if not per_sample.are_expanded(weights):
                raise
        call, data = per_sample.of_layer(self, input, hx, (lengths, resets, reset_state), return_states)
        results = per_sample.run_expanded(type(self).__name__, call, data, weights)
        return results[0], results[1:]

    def _joined(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The weights as the kernels take them, where `_joins` says that this is not how they lie."""
        raise NotImplementedError

    def _modifiers(
        self, resets: Tensor | None, reset_state: Tensor | Sequence[Tensor] | None, return_states: bool
    ) -> Modifiers | None:
        """What a call is more than torch.nn's, if anything."""
        if self._options is None and resets is None and reset_state is None and not return_states:
            return None
        return Modifiers(self._options or DEFAULTS, resets, reset_state, return_states)

    def _stacked(self) -> tuple[str, Sequence[str], int, bool]:
        return self.mode.lower(), self._flat_weights_names, self.num_layers, self.bidirectional


def refuse_proj_size(name: str) -> NoReturn:
    """RNN and GRU have no projection; torch.nn overlooks one given by position, and fails at the first call."""
    raise ValueError(f"{name}: proj_size argument is only supported for LSTM, not RNN or GRU. Leave it out")


_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(Refusals, OpacusHooks, Packing, nn.RNNCellBase):
    """Base of RNNCell, LSTMCell and GRUCell. Use those."""

    __jit_unused_properties__: ClassVar = ["qconfig", "_cell"]

    _cell: str  # which recurrence this is, as fastrnn.reference names it

    _joins: ClassVar[bool] = False  # as Layer's

    def _stacked(self) -> tuple[str, Sequence[str], int, bool]:
        return self._cell, self._weight_names, 1, False

    @property
    def _weight_names(self) -> Sequence[str]:
        return _CELL_WEIGHTS if self.bias else _CELL_WEIGHTS[:2]

    def _current_weights(self) -> list[Tensor]:
        """The weights as they are now, in the order of a layer's."""
        return current_weights(self, self._weight_names)

    def _run(self, input: Any, hx: Tensor | Sequence[Tensor] | None) -> States:
        if isinstance(input, Proxy) or (hx is not None and is_traced(hx)):
            call = traced_call(self, input, hx)
            count = CELLS[self._cell].states
            return tuple([call[index] for index in range(count)]) if count > 1 else (call,)
        weights = self._current_weights()
        try:
            if self._joins:
                return run_cell(self._cell, input, hx, self._joined(weights))
            return run_cell(self._cell, input, hx, weights, self._frozen_weights(weights))
        except RuntimeError:  # see Layer._run
            if not per_sample.are_expanded(weights):
                raise
        call, data = per_sample.of_cell(self, input, hx)
        return per_sample.run_expanded(type(self).__name__, call, data, weights)

    def _joined(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """As :meth:`Layer._joined`."""
        raise NotImplementedError
