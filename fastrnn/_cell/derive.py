"""The backward pass of a cell's step, by reverse mode over its graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from .graph import Graph, evaluate_nodes
from .keep import choose_kept
from .nodes import ZERO, Node, leaf, replace, topological
from .ops import OPS


@dataclass(frozen=True)
class Backward:
    """Gradients as expressions, and where they go.

    Their leaves are ``("grad", k)``, the gradient of result k; ``("kept", k)``, the value of ``kept[k]``; and what
    backward has in any case: the states before the step, weights and constants.
    """

    kept: tuple[Node, ...]  # nodes of forward
    x: tuple[Node, ...]
    r: tuple[Node, ...]  # of "dense" alone
    states: tuple[Node, ...]
    weights: tuple[Node, ...]  # all that are per unit, weight_hh's rows first
    input: Node | None
    recurrent_slots: tuple[int, ...]  # the slot whose gradient w_hh's gate multiplies h_{t-1} with
    saved_values: int  # slots: of what is kept in forward, of the gradients of x, x_t and r in backward
    separate_biases: int  # a bit for each gate whose two biases may not be summed

    @property
    def roots(self) -> tuple[Node, ...]:
        return (*self.x, *self.r, *self.states, *self.weights, *([] if self.input is None else [self.input]))

    @property
    def slots(self) -> tuple[Node, ...]:
        """The gradient that each slot holds, 0 where it means nothing."""
        gates = (*self.x, *([] if self.input is None else [self.input]))
        held = dict(enumerate(gates)) | dict(zip(self.recurrent_slots, self.r, strict=False))
        return tuple(held.get(slot, ZERO) for slot in range(self.saved_values))


def derive(graph: Graph) -> Backward:
    """The gradients of a step, what forward keeps for them, and the slots of both."""
    gradients = _gradients(graph.results)
    gates, dense = len(graph.gates), graph.recurrent == "dense"
    counts = {"x": gates, "r": gates if dense else 0, "state": len(graph.states), "weight": graph.per_unit_weights}
    roots = [gradients.get(leaf(kind, k), ZERO) for kind, count in counts.items() for k in range(count)]
    if graph.reads_input:
        roots.append(gradients.get(leaf("input"), ZERO))

    kept = choose_kept(graph.results, roots)
    rest = iter(replace(roots, {node: leaf("kept", k) for k, node in enumerate(kept)}))
    x, r, states, weights = (tuple(_take(rest, count)) for count in counts.values())
    slots = list(range(gates))
    free = gates + graph.reads_input
    for gate, (of_x, of_r) in enumerate(zip(x, r, strict=False)):
        if of_x is not of_r:
            slots[gate] = free
            free += 1
    separate = _separate_biases(graph) if dense else 2**gates - 1
    return Backward(
        kept, x, r, states, weights, next(rest, None), tuple(slots), max(free, len(kept)), separate_biases=separate
    )


def evaluate_backward(
    backward: Backward,
    kept: Sequence[Tensor],
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """``backward.roots`` by torch's ops, (B, H) each: the gradients of weights are not summed over the batch."""
    kinds = (("kept", kept), ("state", states), ("weight", weights), ("grad", grads))
    leaves = {leaf(kind, k): tensor for kind, tensors in kinds for k, tensor in enumerate(tensors)}
    return evaluate_nodes(backward.roots, leaves, grads[0])


def _take(nodes: Iterator[Node], count: int) -> Iterator[Node]:
    return (next(nodes) for _ in range(count))


def _gradients(results: Sequence[Node]) -> dict[Node, Node]:
    """Of each node that the results depend on, its gradient; each is summed from the last use to the first."""
    gradients: dict[Node, Node] = {}
    for k, result in enumerate(results):
        gradients[result] = gradients.get(result, ZERO) + leaf("grad", k)
    for node in reversed(topological(results)):
        gradient = gradients.get(node, ZERO)
        rule = OPS[node.op].gradients if node.args else None
        if gradient is ZERO or rule is None:
            continue
        for arg, share in zip(node.args, rule(gradient, node, *node.args, *node.numbers), strict=True):
            gradients[arg] = gradients.get(arg, ZERO) + share
    return gradients


def _separate_biases(graph: Graph) -> int:
    """The gates whose x and r are used other than in one sum that both are terms of."""
    users: dict[Node, list[Node]] = {}
    for node in topological(graph.results):
        for arg in node.args:
            users.setdefault(arg, []).append(node)

    def sums(term: Node) -> list[Node]:
        """The sums that the term is used in, as long as each is used in nothing but the next."""
        chain = [term]
        while term not in graph.results and len(users.get(term, ())) == 1:
            (user,) = users[term]
            if user.op != "add" and not (user.op == "sub" and user.args[0] is term):
                break
            chain.append(user)
            term = user
        return chain

    mask = 0
    for gate in range(len(graph.gates)):
        x, r = leaf("x", gate), leaf("r", gate)
        unused = not users.get(x) and not users.get(r) and x not in graph.results and r not in graph.results
        if not unused and not set(sums(x)) & set(sums(r)):
            mask |= 1 << gate
    return mask
