"""The search space: which cells there are, which of them are the same, and how to move between them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supernet.errors import SupernetError, nearest
from supernet.genotype import MAX_NODES, NAS_BENCH_201_OPS, ZERO, Genotype, edge_list

SKIP = "skip_connect"
"""The operation that passes its input on unchanged."""


@dataclass(frozen=True)
class CellSpace:
    """All cells over a complete directed acyclic graph with one operation per edge.

    The defaults are NAS-Bench-201: 4 nodes, 6 edges, 5 operations, 15,625 cells.

    Args:
        num_nodes: nodes of the cell, the input included; at least 2.
        ops: names of the candidate operations, in the order of the mixture's columns.

    Raises:
        SupernetError: fewer than two nodes or too many, no operations, or an operation named twice.

    >>> CellSpace().size
    15625
    """

    num_nodes: int = 4
    ops: Sequence[str] = NAS_BENCH_201_OPS

    def __post_init__(self) -> None:
        # A list, as YAML gives it, would make the space unhashable.
        object.__setattr__(self, "ops", (self.ops,) if isinstance(self.ops, str) else tuple(self.ops))
        if self.num_nodes < 2:
            raise SupernetError(f"num_nodes must be at least 2 (an input and an output), got {self.num_nodes}")
        if self.num_nodes > MAX_NODES:
            raise SupernetError(f"a cell has {MAX_NODES} nodes at most, got num_nodes={self.num_nodes}")
        for op in self.ops:
            Genotype((op,) * self.num_edges)  # says what is wrong with a name, or with so many nodes
        if not set(self.ops) - {ZERO} or len(set(self.ops)) != len(self.ops):
            raise SupernetError(f"ops must name an operation other than {ZERO!r} and none twice, got {list(self.ops)}")

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """All edges ``(target, source)``, in the order of the mixture's rows."""
        return edge_list(self.num_nodes)

    @property
    def num_edges(self) -> int:
        """Number of edges, E."""
        return self.num_nodes * (self.num_nodes - 1) // 2

    @property
    def num_ops(self) -> int:
        """Number of candidate operations, O."""
        return len(self.ops)

    @property
    def size(self) -> int:
        """Number of cells; no `len`, which cannot count the cells of 8 nodes."""
        return int(self.num_ops**self.num_edges)

    def __iter__(self) -> Iterator[Genotype]:
        """Every cell once, the operation of the last edge varying fastest."""
        return (Genotype(ops) for ops in itertools.product(self.ops, repeat=self.num_edges))

    def genotype(self, choices: Sequence[int]) -> Genotype:
        """The cell with operation number ``choices[e]`` on edge ``e``; ``choices`` has length E, values 0 to O-1."""
        if len(choices) != self.num_edges or not all(0 <= choice < self.num_ops for choice in choices):
            raise SupernetError(
                f"a cell of this space is {self.num_edges} operation numbers from 0 to {self.num_ops - 1},"
                f" got {list(choices)}"
            )
        return Genotype(tuple(self.ops[choice] for choice in choices))

    def choices(self, genotype: Genotype) -> tuple[int, ...]:
        """The inverse of `genotype`: the number of the operation on each edge, length E.

        Raises:
            SupernetError: the cell has another number of nodes, or an operation that is no candidate here.
        """
        if genotype.num_nodes != self.num_nodes:
            raise SupernetError(f"this space has cells of {self.num_nodes} nodes, got {genotype.num_nodes}: {genotype}")
        for op in genotype.ops:
            if op not in self.ops:
                raise SupernetError(f"{op!r} is no candidate operation of this space: {nearest(op, self.ops)}")
        return tuple(self.ops.index(op) for op in genotype.ops)

    def __contains__(self, genotype: object) -> bool:
        return (
            isinstance(genotype, Genotype)
            and genotype.num_nodes == self.num_nodes
            and set(genotype.ops) <= set(self.ops)
        )

    def sample(self, rng: random.Random) -> Genotype:
        """A cell drawn uniformly from the whole space."""
        return Genotype(tuple(rng.choices(self.ops, k=self.num_edges)))

    def neighbours(self, genotype: Genotype) -> list[Genotype]:
        """The ``E * (O - 1)`` cells that differ from this one on exactly one edge."""
        self.choices(genotype)  # says what is wrong with a cell of another space
        return [
            Genotype((*genotype.ops[:edge], op, *genotype.ops[edge + 1 :]))
            for edge in range(self.num_edges)
            for op in self.ops
            if op != genotype.ops[edge]
        ]

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """A neighbour drawn uniformly: one edge gets another operation."""
        neighbours = self.neighbours(genotype)
        if not neighbours:
            raise SupernetError(f"a space with the single operation {self.ops[0]!r} has no other cell to move to")
        return rng.choice(neighbours)


def is_connected(genotype: Genotype) -> bool:
    """Whether the input reaches the output over edges that are not ``none`` (15,284 of the 15,625 cells)."""
    reached = {0}
    for (target, source), op in genotype.edges.items():
        if op != ZERO and source in reached:
            reached.add(target)
    return genotype.num_nodes - 1 in reached


def canonical(genotype: Genotype, *, drop_zeros: bool) -> str:
    """A text that is equal for cells that compute the same function by the benchmark's rules.

    Each node is written as the sorted sum of its edges; a skip connection is replaced by the node it copies
    (12,751 classes). With ``drop_zeros`` an edge that is ``none``, or that leaves a node known to be zero, is
    written ``#`` (6,466 classes). These are the published counts (Dong and Yang, 2020, section 2). The rule works
    on text: a copied sum is sorted as one word and a sum keeps its zeros, so it is finer than equality of
    functions, and the counts hold for this spelling of the terms only.
    """
    nodes = ["0"]
    for target in range(1, genotype.num_nodes):
        terms = []
        for source in range(target):
            op, term = genotype.edges[target, source], nodes[source]
            if drop_zeros and (op == ZERO or term == "#"):
                terms.append("#")
            else:
                terms.append(term if op == SKIP else f"({term})@{op}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]
