"""Guarding a search against collapse: to skip connections, or to a minimum so sharp that its cell does not survive."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from supernet.curvature import dominant_eigenvalue
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.ranks import rank
from supernet.space import SKIP
from supernet.strategies import Batch, FactorisedSearch, SearchStrategy

OnCollapse = Literal["log", "stop", "rewind"]
"""What to do about a collapse."""

LAG, WINDOW = 5, 3
"""Epochs between the two eigenvalues that are compared, and how many each is the mean of (Zela et al., 2020)."""

IMAGES = 64
"""Of the validation half, the same every time, on which the Hessian is taken: two backward passes want memory."""


class CollapseGuard(Callback):
    """Looks at each derived cell and, if asked to, at the dominant eigenvalue of the architecture's Hessian.

    A search is unhealthy while its derived cell has more skip connections than ``max_skips`` (Liang et al., 2019,
    DARTS+), or if the eigenvalue has grown by more than ``max_growth`` (Zela et al., 2020, R-DARTS, early stopping).
    Only epochs with a validation count. What was never healthy has not collapsed, nor has what learns nothing.

    Args:
        search: the strategy, bound.
        action: log says so; stop ends the search with the cell and the architecture of the last healthy epoch; rewind
            puts both back and lets the architecture take no more steps, while the network trains on under it.
        max_skips: skip connections of a healthy cell, at most.
        max_growth: the mean eigenvalue now over that of 5 epochs ago, at most; the epoch to go back to is then that of
            5 epochs ago. None: it is not watched.
        eigenvalue_every: epochs from one eigenvalue to the next; 0: one an epoch if its growth is watched, else none.
    """

    def __init__(
        self,
        search: SearchStrategy,
        action: OnCollapse = "log",
        max_skips: int = 3,
        max_growth: float | None = None,
        eigenvalue_every: int = 0,
    ) -> None:
        for name, value in (("max_skips", max_skips), ("eigenvalue_every", eigenvalue_every)):
            if value < 0:
                raise SupernetError(f"{name} must be at least 0, got {value}")
        self.learns = search.learns
        if action != "log" and not self.learns:
            raise SupernetError(
                f"collapse={action} goes back to what an architecture had learned, and {type(search).__name__} learns"
                " nothing: leave --model.collapse out"
            )
        if max_growth is not None and not 1 < max_growth < float("inf"):
            raise SupernetError(f"max_eigenvalue_growth must be above 1, got {max_growth}")
        if max_growth is not None and eigenvalue_every > 1:
            raise SupernetError(
                f"the growth of the eigenvalue is watched in every epoch, and eigenvalue_every is {eigenvalue_every}:"
                " leave it out, or max_eigenvalue_growth"
            )
        self.every = eigenvalue_every or int(max_growth is not None)
        if self.every and not (isinstance(search, FactorisedSearch) and search.is_smooth):
            raise SupernetError(
                "the eigenvalue is that of a strategy whose mixture is a smooth function of its logits, without draws,"
                f" such as DARTS, and that of {type(search).__name__} is none; leave eigenvalue_every and"
                " max_eigenvalue_growth out"
            )
        self.action, self.max_skips, self.max_growth = action, max_skips, max_growth
        self.eigenvalues: list[tuple[int, float]] = []
        self.healthy: list[dict[str, Any]] = []
        self.is_well, self.is_over = False, False
        self._derived_in: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a checkpoint has brought has to fit, now and not when it is needed; what is over stays over."""
        search: Any = pl_module.search
        now = snapshot(search)
        for kept in self.healthy:
            search.load_state_dict(kept["search"])
        search.load_state_dict(now)
        pl_module.halted = self.is_over  # type: ignore[assignment]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """This epoch has a cell."""
        if not trainer.sanity_checking:
            self._derived_in = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, and act if the search is unhealthy; keep its state if it is not."""
        module: Any = pl_module
        epoch = trainer.current_epoch
        if self.every and (epoch + 1) % self.every == 0:
            value = measured(module)
            module.log("arch/eigenvalue", value)
            self.eigenvalues = [*self.eigenvalues[-LAG - WINDOW :], (epoch, value)]
        if self.is_over or not self.learns or module.genotype is None or self._derived_in != epoch:
            return
        num_skips, grown = module.genotype.ops.count(SKIP), growth(self.eigenvalues)
        if num_skips > self.max_skips:
            self._act(
                trainer, module, f"the derived cell has {num_skips} skip connection{'s' * (num_skips > 1)}", epoch
            )
        elif self.max_growth is not None and grown is not None and grown > self.max_growth:
            told = f"the dominant eigenvalue has grown to {grown:.3g} times that of {LAG} epochs ago"
            self._act(trainer, module, told, epoch - LAG)
        else:
            self.is_well = True
            if self.action != "log":
                self.healthy = [*self.healthy[-LAG:], keep(module, epoch)]

    def _act(self, trainer: Trainer, module: Any, reason: str, back_to: int) -> None:
        if self.action != "log" and not self.healthy:
            return
        was_well, self.is_well = self.is_well, False
        told = f"the search has collapsed in epoch {trainer.current_epoch + 1}: {reason};"
        if self.action == "log":
            told += " pass --model.collapse rewind to keep to the last healthy epoch"
        else:
            kept = ([kept for kept in self.healthy if kept["epoch"] <= back_to] or self.healthy[:1])[-1]
            go_back(module, kept)
            self.is_over = module.halted = True
            trainer.should_stop = self.action == "stop"
            told += " it ends with the cell of" if self.action == "stop" else " the architecture stays as it was in"
            told += f" epoch {kept['epoch'] + 1}"
        if was_well and rank() == 0:
            print(told, flush=True)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes back to, and what it compares with."""
        return {
            "eigenvalues": [list(pair) for pair in self.eigenvalues],
            "healthy": self.healthy,
            "is_well": self.is_well,
            "is_over": self.is_over,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.eigenvalues = [(int(epoch), float(value)) for epoch, value in state_dict["eigenvalues"]]
        self.healthy = [
            {**kept, "epoch": int(kept["epoch"]), "genotype": str(Genotype.parse(kept["genotype"]))}
            for kept in state_dict["healthy"]
        ]
        self.is_well, self.is_over = bool(state_dict["is_well"]), bool(state_dict["is_over"])


def measured(module: Any) -> float:
    """The dominant eigenvalue of the architecture's Hessian now."""
    images, labels = next(module.score_batches())
    batch: Batch = images[:IMAGES], labels[:IMAGES]
    with module.trainer.precision_plugin.val_step_context():
        return dominant_eigenvalue(module.search, module.bilevel.plain_loss, batch)


def growth(eigenvalues: list[tuple[int, float]]) -> float | None:
    """The mean of the last magnitudes over that of those some epochs earlier; None until there are enough."""
    if not eigenvalues:
        return None
    now = [abs(value) for _, value in eigenvalues][-WINDOW:]
    before = [abs(value) for epoch, value in eigenvalues if epoch <= eigenvalues[-1][0] - LAG][-WINDOW:]
    if len(before) < WINDOW or not fmean(before) > 0:
        return None
    return fmean(now) / fmean(before)


def keep(module: Any, epoch: int) -> dict[str, Any]:
    """What to go back to: the cell, what is known of it, and the state of the strategy."""
    record = module.record()
    return {
        "epoch": epoch,
        "genotype": str(module.genotype),
        "metrics": record["metrics"],
        "search": snapshot(module.search),
    }


def go_back(module: Any, kept: dict[str, Any]) -> None:
    """Put cell and strategy back."""
    module.search.load_state_dict(kept["search"])
    module.genotype = Genotype.parse(kept["genotype"])
    module.of_genotype = {"epoch": kept["epoch"], "metrics": kept["metrics"]}


def snapshot(search: SearchStrategy) -> dict[str, Any]:
    """A copy of the state of a strategy, on the host."""
    return {
        name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else _copied(value)
        for name, value in search.state_dict().items()
    }


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    return value.clone() if isinstance(value, torch.Tensor) else value
