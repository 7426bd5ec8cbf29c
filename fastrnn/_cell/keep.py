"""What forward keeps for backward.

Backward reads for free what it has in any case: the states before the step, the per-unit weights and the gradients.
What else it needs of forward is kept, or recomputed from what is kept. The fewest values that this takes are a minimum
vertex cut between what a step alone has (x, r and x_t) and what backward needs. Of all such cuts it is the one nearest
to backward, which recomputes least.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from .nodes import Node, topological

_OF_THE_STEP = ("x", "r", "input")


def of_the_step(order: Sequence[Node]) -> set[Node]:
    """Those that depend on x, r or x_t, of nodes in topological order."""
    found: set[Node] = set()
    for node in order:
        if node.op in _OF_THE_STEP or any(arg in found for arg in node.args):
            found.add(node)
    return found


def choose_kept(results: Iterable[Node], gradients: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes whose values forward keeps, so that the gradients can be computed."""
    forward = topological(results)
    backward = topological(gradients)
    with_gradient: set[Node] = set()
    for node in backward:
        if node.op == "grad" or any(arg in with_gradient for arg in node.args):
            with_gradient.add(node)
    candidates = of_the_step([node for node in backward if node not in with_gradient])
    needed = {arg for node in with_gradient for arg in node.args if arg in candidates}
    order = [node for node in (*forward, *backward) if node in candidates]
    cut = _Cut(list(dict.fromkeys(order)), needed, set(forward))
    return tuple(cut.nearest())


class _Cut:
    """A flow from what a step alone has to what backward needs, through nodes of limited capacity."""

    def __init__(self, order: Sequence[Node], needed: set[Node], forward: set[Node]) -> None:
        self._order = order
        # vertices: 0 and 1 are source and sink, node k of the order has 2k + 2 (in) and 2k + 3 (out)
        self._capacity: list[dict[int, int]] = [{} for _ in range(2 * len(order) + 2)]
        index = {node: k for k, node in enumerate(order)}
        endless = (len(order) + 2) ** 2
        for k, node in enumerate(order):
            # As many values as needed; among as many, rather those that forward computes in any case.
            limit = len(order) + 1 + (node not in forward)
            self._connect(2 * k + 2, 2 * k + 3, endless if node.is_condition else limit)
            if node.op in _OF_THE_STEP:
                self._connect(0, 2 * k + 2, endless)
            if node in needed:
                self._connect(2 * k + 3, 1, endless)
            for arg in node.args:
                if arg in index:
                    self._connect(2 * index[arg] + 3, 2 * k + 2, endless)

    def _connect(self, tail: int, head: int, capacity: int) -> None:
        self._capacity[tail][head] = capacity
        self._capacity[head].setdefault(tail, 0)

    def nearest(self) -> list[Node]:
        while self._augment():
            pass
        # Of a node in the cut, only the out vertex still reaches the sink.
        reaches = {1}
        queue = deque(reaches)
        while queue:
            head = queue.popleft()
            for tail in self._capacity[head]:
                if tail not in reaches and self._capacity[tail][head] > 0:
                    reaches.add(tail)
                    queue.append(tail)
        return [node for k, node in enumerate(self._order) if 2 * k + 3 in reaches and 2 * k + 2 not in reaches]

    def _augment(self) -> bool:
        """Adds the flow that one more path has room for, a shortest one."""
        came_from = {0: 0}
        queue = deque([0])
        while queue and 1 not in came_from:
            tail = queue.popleft()
            for head, room in self._capacity[tail].items():
                if room > 0 and head not in came_from:
                    came_from[head] = tail
                    queue.append(head)
        if 1 not in came_from:
            return False
        path = [1]
        while path[-1] != 0:
            path.append(came_from[path[-1]])
        edges = list(zip(path[1:], path[:-1], strict=True))
        room = min(self._capacity[tail][head] for tail, head in edges)
        for tail, head in edges:
            self._capacity[tail][head] -= room
            self._capacity[head][tail] += room
        return True
