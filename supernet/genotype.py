"""A discovered cell: one operation per edge, and the ways to write it down.

Edges are ordered by target, then by source: ``1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2``.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supernet.errors import SupernetError
from supernet.files import read_regular, write_whole

NAS_BENCH_201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The five candidate operations of NAS-Bench-201 (Dong and Yang, 2020), in the official order."""

ZERO = "none"
"""The operation that lets nothing through: the edge is absent."""

_EXAMPLE = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|skip_connect~1|nor_conv_1x1~2|"
_NODE = re.compile(r"\|(?:[^|~+\s]+~\d+\|)+", re.ASCII)
MAX_NODES = 16
"""Nodes of a cell, at most: far above any cell in use; it keeps hostile input cheap."""

_MAX_BYTES = 2**20  # of a JSON file; those of `Genotype.save` have less than 10,000


def edge_list(num_nodes: int) -> tuple[tuple[int, int], ...]:
    """All edges ``(target, source)`` of a cell, in the order in which a genotype lists its operations.

    >>> edge_list(3)
    ((1, 0), (2, 0), (2, 1))
    """
    return tuple((target, source) for target in range(1, num_nodes) for source in range(target))


@dataclass(frozen=True)
class Genotype:
    """A discrete cell: the name of one operation for each edge.

    Node 0 is the input of the cell, the last node its output; every node is the sum of its edges.

    Args:
        ops: operation names in edge order, 1, 3, 6, 10, ... of them for 2, 3, 4, 5, ... nodes.

    Raises:
        SupernetError: the number of operations fits no cell, or a name cannot be written in a cell string.

    >>> cell = Genotype.parse("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|")
    >>> cell.index
    11472
    >>> cell.num_nodes
    4
    """

    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", (self.ops,) if isinstance(self.ops, str) else tuple(self.ops))
        if not 2 <= self.num_nodes <= MAX_NODES or len(edge_list(self.num_nodes)) != len(self.ops):
            raise SupernetError(
                f"a cell has 1, 3, 6, 10, ... edges (every node is fed by all earlier ones, {MAX_NODES} nodes"
                f" at most), got {len(self.ops)} operations"
            )
        for op in self.ops:
            if not isinstance(op, str) or not re.fullmatch(r"[^|~+\s]+", op):
                raise SupernetError(f"an operation name is text without '|', '~', '+' or spaces, got {op!r}")

    @property
    def num_nodes(self) -> int:
        """Number of nodes, the input included."""
        return int((1 + (1 + 8 * len(self.ops)) ** 0.5) / 2)

    @property
    def edges(self) -> dict[tuple[int, int], str]:
        """The operation of each edge ``(target, source)``, in edge order."""
        return dict(zip(edge_list(self.num_nodes), self.ops, strict=True))

    @property
    def index(self) -> int | None:
        """Official NAS-Bench-201 index, 0 to 15,624; None for a cell of another space."""
        return _official_order()[1].get(self.ops)

    def __str__(self) -> str:
        nodes: list[str] = [""] * self.num_nodes
        for (target, source), op in self.edges.items():
            nodes[target] += f"{op}~{source}|"
        return "+".join(f"|{node}" for node in nodes[1:])

    @classmethod
    def parse(cls, string: str) -> Genotype:
        """Read the NAS-Bench-201 notation, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``, for any number of nodes.

        Raises:
            SupernetError: the string is not of this form; the message says where it departs from it.
        """
        text = string.strip()
        ops: list[str] = []
        for target, node in enumerate(text.split("+"), start=1):
            entries = [entry.rpartition("~") for entry in node[1:-1].split("|")]
            if not _NODE.fullmatch(node) or [source for _, _, source in entries] != [str(s) for s in range(target)]:
                expected = "|" + "".join(f"op~{source}|" for source in range(min(target, 8)))
                raise SupernetError(
                    f"malformed cell string: node {target} should read {expected}, got {_shorten(node)!r};"
                    f" a whole cell looks like {_EXAMPLE}"
                )
            ops += [op for op, _, _ in entries]
        return cls(tuple(ops))

    @classmethod
    def from_index(cls, index: int) -> Genotype:
        """The cell with this official NAS-Bench-201 index.

        Raises:
            SupernetError: the index is not in 0 to 15,624.
        """
        cells = _official_order()[0]
        if not 0 <= index < len(cells):
            raise SupernetError(f"an official NAS-Bench-201 index is 0 to {len(cells) - 1}, got {index}")
        return cls(cells[index])

    @classmethod
    def named(cls, text: str) -> Genotype:
        """The cell that a person names: by a cell string, an official index, or a JSON file.

        Raises:
            SupernetError: this names no cell.
        """
        text = text.strip()
        if text.lstrip("-").isdecimal() and len(text) < 20:
            return cls.from_index(int(text))
        if "|" in text or "~" in text or not text:
            return cls.parse(text)
        return cls.load(text)

    def to_json(self, provenance: Mapping[str, Any] | None = None) -> str:
        """This cell as JSON text: string, official index, operation per edge, and where it came from."""
        edges = {f"{target}<-{source}": op for (target, source), op in self.edges.items()}
        record = {
            "genotype": str(self),
            "index": self.index,
            "edges": edges,
            "provenance": dict(provenance or {}),
        }
        return json.dumps(record, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read what `to_json` wrote.

        Raises:
            SupernetError: not JSON, not a genotype, or its parts contradict one another.
        """
        try:
            record = json.loads(text, object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            raise SupernetError(f"a genotype file holds JSON, and this does not parse: {error}") from None
        if not isinstance(record, dict) or not isinstance(record.get("genotype"), str):
            found = f"the keys {reprlib.repr(sorted(record))}" if isinstance(record, dict) else type(record).__name__
            raise SupernetError(
                f"a genotype file is a JSON object with the cell string under 'genotype', got {found};"
                " a genotype of another search space cannot be used here"
            )
        genotype = cls.parse(record["genotype"])
        told = json.loads(genotype.to_json())
        for key in ("edges", "index"):
            found = record.get(key, told[key])
            if type(found) is not type(told[key]) or found != told[key]:
                raise SupernetError(
                    f"the genotype file contradicts itself: {key!r} says {reprlib.repr(found)}, but the cell"
                    f" string means {told[key]}; keep the one that is right and delete the other key"
                )
        return genotype

    def save(self, path: str | os.PathLike[str], provenance: Mapping[str, Any] | None = None) -> None:
        """Write `to_json` to a file; the file appears whole or not at all.

        Raises:
            SupernetError: it cannot be written.
        """
        write_whole(path, self.to_json(provenance).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Genotype:
        """Read a file that `save` wrote.

        Raises:
            SupernetError: the file is missing, unreadable, or no genotype.
        """
        try:
            return cls.from_json(read_regular(path, _MAX_BYTES).decode())
        except SupernetError as error:
            raise SupernetError(f"{path}: {error}") from None
        except (OSError, ValueError) as error:
            raise SupernetError(f"cannot read the genotype file {path!r}: {error}") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; JSON leaves open which of two equal keys counts."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is there twice")
    return record


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


@functools.cache
def official_strings() -> dict[str, int]:
    """The cell strings of NAS-Bench-201, each with its official index, in that order."""
    shape = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"
    return {shape.format(*cell): index for index, cell in enumerate(_official_order()[0])}


@functools.cache
def _official_order() -> tuple[list[tuple[str, ...]], dict[tuple[str, ...], int]]:
    """Cells by official index, and the index of each: the last edge varies fastest, then a seeded shuffle."""
    cells = list(itertools.product(NAS_BENCH_201_OPS, repeat=6))
    random.Random(88).shuffle(cells)
    return cells, {cell: index for index, cell in enumerate(cells)}
