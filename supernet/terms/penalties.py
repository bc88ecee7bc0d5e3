"""Terms that are added to what the architecture descends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from supernet.cost import operation_costs
from supernet.errors import SupernetError
from supernet.latency import operation_latencies, read_table
from supernet.ranks import average, rank
from supernet.strategies import SearchStrategy
from supernet.strategies.base import line
from supernet.strategies.policy import entropy
from supernet.terms.base import SearchTerm, need_logits


class _Added(SearchTerm):
    """A term that adds something, with a weight that may follow a schedule; shows both under its own name.

    Args:
        tag: that name.
        weight: in the first epoch.
    """

    last: Tensor
    """What was added last; stays on the device until it is shown, so that no step waits for it."""

    def __init__(self, tag: str, weight: float) -> None:
        super().__init__()
        self.tag, self.now = tag, weight
        self.register_buffer("last", torch.zeros(()))

    def added(self, value: Tensor) -> Tensor:
        """The value times the weight, which is remembered."""
        weighted = self.now * value
        self.last.copy_(weighted.detach())
        return weighted

    def scalars(self) -> dict[str, float]:
        """The weight, and what was added last to the loss of the architecture."""
        return {f"{self.tag}_weight": self.now, f"{self.tag}_loss": float(self.last)}


class CostPenalty(_Added):
    """Adds the cost of the mixture: ``weight * sum(mixture * cost)``, as a share of what the dearest cell costs.

    Where each cell has a mixture of its own, it is the mean of theirs.

    The cost of an edge is linear in its row, so it is the expected cost if rows are probabilities, and the gradient
    of a logit is the same as that of a loss that grows by the cost of its operation (Wu et al., 2019, FBNet, eq. 7).
    A strategy that learns by rewards gets it off its reward.

    Args:
        weight: of the cost; at 1 a cell with the dearest operation on all edges costs as much as a cross-entropy of 1.
        of: params, macs, or latency, in a network of the width, depth and images of the search. The latency is
            measured on the device of the search when it begins, once: a run that is resumed goes on with it.
        table: a JSON file with the latency of each operation in milliseconds, in place of measuring; what
            ``python -m supernet.latency --out FILE`` writes on the device that counts.
    """

    def __init__(
        self, weight: float, of: Literal["params", "macs", "latency"] = "macs", table: str | None = None
    ) -> None:
        super().__init__("cost_penalty", weight)
        if not 0 <= weight < float("inf"):
            raise SupernetError(f"weight must be 0 or more, got {weight}")
        if table is not None and of != "latency":
            raise SupernetError(f"a table tells latencies: pass of=latency with it, not {of}")
        self.of, self.table = of, table

    def bind(self, search: SearchStrategy, seed: int, network: Mapping[str, Any] = {}) -> None:
        """Look up what every operation costs in the network; a latency is not known yet.

        Raises:
            SupernetError: nothing is learned that a penalty could change.
        """
        super().bind(search, seed, network)
        if not search.learns:
            raise SupernetError(
                f"CostPenalty changes what an architecture learns, and {type(search).__name__} learns nothing: leave it"
                " out"
            )
        self.network = {name: value for name, value in network.items() if name != "num_classes"}
        if self.of == "latency":  # below zero: not known; a checkpoint keeps what was measured
            self.register_buffer("costs", torch.full((search.space.num_ops,), -1.0))
        else:
            costs = [float(getattr(cost, self.of)) for cost in operation_costs(search.space.ops, **network)]
            self.register_buffer("costs", torch.tensor(costs), persistent=False)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """In the first epoch of all, measure latencies or read them, and say so."""
        costs = self.get_buffer("costs")
        if bool((costs >= 0).all()):
            return
        ops = self.space.ops
        if self.table is None:
            found = operation_latencies(ops, device=costs.device, **self.network)
            source = f"measured on {costs.device}"
        else:
            found, source = read_table(self.table, ops), f"read from {self.table}"
        costs.copy_(torch.tensor([found[op] for op in ops]))
        average([costs])  # several devices of one kind measure several times; all have to use the same
        if rank() == 0:
            told = ", ".join(f"{op} {value:.4g}" for op, value in zip(ops, costs.tolist(), strict=True))
            print(f"latency of an edge in ms, {source}: {told}", flush=True)

    def penalty(self, mixture: Tensor) -> Tensor:
        """The cost of a mixture; 1 for the dearest cell if the weight is 1."""
        costs = self.get_buffer("costs").to(mixture, non_blocking=True)
        dearest = costs.max().clamp_min(torch.finfo(costs.dtype).tiny) * self.space.num_edges
        return self.added((mixture * costs).sum(dim=(-2, -1)).mean() / dearest)

    def scalars(self) -> dict[str, float]:
        """Weight and penalty, and latencies, if it is they that count."""
        shown = super().scalars()
        if self.of == "latency":
            costs = self.get_buffer("costs").tolist()
            shown |= {f"latency_ms/{op}": ms for op, ms in zip(self.space.ops, costs, strict=True)}
        return shown


class Entropy(_Added):
    """Adds ``weight`` times the mean entropy of the rows, in nats: above zero makes choices sharper, below flatter.

    Args:
        weight: in the first epoch.
        final_weight: in the last epoch, by a line; the same as ``weight`` if not given.
    """

    def __init__(self, weight: float, final_weight: float | None = None) -> None:
        super().__init__("entropy", weight)
        self.weight, self.final_weight = weight, weight if final_weight is None else final_weight

    def bind(self, search: SearchStrategy, seed: int, network: Mapping[str, Any] = {}) -> None:
        """Refuse a strategy without logits for each edge."""
        super().bind(search, seed, network)
        need_logits(self, search)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the weight."""
        self.now = line(self.weight, self.final_weight, epoch, num_epochs)

    def regularise(self, search: SearchStrategy) -> Tensor:
        """The weighted mean entropy."""
        return self.added(entropy(need_logits(self, search).open_logits().log_softmax(dim=1)).mean())


class BetaDecay(_Added):
    """Adds ``weight * mean(logsumexp(logits))`` over the edges (Ye et al., 2022, beta-DARTS, eq. 12).

    It decays what a softmax makes of the logits, so that no operation runs away, such as the skip connection.

    Args:
        weight: in the last epoch; it grows from zero by a line.
    """

    def __init__(self, weight: float = 50.0) -> None:
        super().__init__("beta_decay", 0.0)
        if not 0 <= weight < float("inf"):
            raise SupernetError(f"weight must be 0 or more, got {weight}")
        self.weight = weight

    def bind(self, search: SearchStrategy, seed: int, network: Mapping[str, Any] = {}) -> None:
        """Refuse a strategy without logits for each edge."""
        super().bind(search, seed, network)
        need_logits(self, search)

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Move the weight."""
        self.now = line(0.0, self.weight, epoch, num_epochs)

    def regularise(self, search: SearchStrategy) -> Tensor:
        """The weighted decay."""
        return self.added(need_logits(self, search).open_logits().logsumexp(dim=1).mean())
