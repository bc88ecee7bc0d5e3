"""What a search leaves behind while it runs: the genotype file, TensorBoard's pictures, figures of a table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from supernet.benchmark import Column, TabularBenchmark
from supernet.benchmark.tabulated import Tabulated, check_tabulated
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.plot import draw_cell, heat_map
from supernet.ranks import world_size
from supernet.recipe import run_dir
from supernet.space import SKIP


class EpochLines(Callback):
    """One line an epoch instead of a progress bar, for output that goes to a file."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics that a progress bar would show."""
        shown = "  ".join(f"{name} {float(value):.3f}" for name, value in trainer.progress_bar_metrics.items())
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {shown}", flush=True)


class GenotypeExport(Callback):
    """Writes ``genotype.json`` into the folder of the run whenever a cell is derived, and at the end.

    Args:
        tabulated: what a table says of a cell, in plain values; it goes into the file and nowhere else.
    """

    def __init__(self, tabulated: Callable[[Genotype], Mapping[str, Any]] | None = None) -> None:
        self.tabulated = tabulated
        self._derived_in: int | None = None
        self._has_written = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the cell of this epoch."""
        assert isinstance(pl_module, SearchModule)
        if pl_module.genotype is not None and not trainer.sanity_checking:
            self._derived_in, self._has_written = trainer.current_epoch, True
            record = {"cost": pl_module.cost(pl_module.genotype)._asdict(), **pl_module.record()}
            if self.tabulated is not None:
                record["tabulated"] = self.tabulated(pl_module.genotype)
            if trainer.is_global_zero:  # all ranks derive and look at the metrics; one writes
                pl_module.genotype.save(run_dir(trainer) / "genotype.json", record)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In the last epoch, derive now if its validation did not."""
        assert isinstance(pl_module, SearchModule)
        if trainer.current_epoch + 1 == trainer.max_epochs and self._derived_in != trainer.current_epoch:
            pl_module.derive()
            self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Derive at last if the search was stopped before any epoch did; write the cell that it went back to."""
        assert isinstance(pl_module, SearchModule)
        if pl_module.genotype is None:
            pl_module.derive()
            self.on_validation_end(trainer, pl_module)
        elif self._has_written and pl_module.went_back:
            self.on_validation_end(trainer, pl_module)


class TabulatedAccuracy(Callback):
    """Shows what each derived cell really reaches by a column of accuracies of a table of NAS-Bench-201:
    ``table/accuracy``, in percent, ``table/rank`` and ``table/regret``.

    It only looks. The figures go straight to the loggers and not among the metrics of the trainer, so that nothing can
    be chosen by them. Of a cell that the table lacks it shows nothing.

    Raises:
        SupernetError: the table has no such accuracies; at the start of a search of other cells.
    """

    def __init__(self, table: TabularBenchmark, column: Column) -> None:
        self._tabulated = Tabulated(table, column)
        self._shown: tuple[int, Genotype] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse another space, and show what the figures mean."""
        assert isinstance(pl_module, SearchModule)
        check_tabulated(pl_module.supernet.space, self._tabulated.table.source)
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_text("table/meaning", self._tabulated.column.meaning)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the cell of this epoch."""
        assert isinstance(pl_module, SearchModule)
        now = trainer.fit_loop.total_batch_idx, pl_module.genotype
        if trainer.sanity_checking or now[1] is None or now == self._shown:
            return
        self._shown = now[0], now[1]
        if (place := self._tabulated.place(now[1])) is not None:
            figures = {f"table/{name}": value for name, value in place._asdict().items()}
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=now[0])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In the last epoch, show the cell that was derived without a validation."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a cell that was gone back to, or derived at last."""
        self.on_validation_end(trainer, pl_module)


class SearchPictures(Callback):
    """Sends TensorBoard what the losses do not show: probabilities, entropy, the derived cell and its cost.

    Pictures are large, so a long run shows some of its epochs, evenly, and always its last.

    Args:
        max_heat_maps: how many heat maps a run keeps at most; each shows the whole time up to its epoch.
        max_cells: how many drawings of a cell.
        max_columns: how many epochs a heat map shows at most.
    """

    def __init__(self, max_heat_maps: int = 20, max_cells: int = 100, max_columns: int = 500) -> None:
        self.max_heat_maps, self.max_cells, self.max_columns = max_heat_maps, max_cells, max_columns
        self.epochs: list[int] = []
        self.history: list[NDArray[np.float32]] = []
        self._has_shown = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the configuration as text."""
        if isinstance(trainer.logger, TensorBoardLogger):
            text = json.dumps(hyperparameters(trainer, pl_module), indent=2)
            trainer.logger.experiment.add_text("hyperparameters", f"```json\n{text}\n```")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the throughput, also in the middle of an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the throughput."""
        self._images, self._started = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images; those of the architecture only if it learns from them."""
        used = batch.values() if len(trainer.optimizers) > 1 else [batch["train"]]
        self._images += sum(len(labels) for _, labels in used)
        if trainer.is_last_batch:
            images = world_size() * self._images
            rate = images / (time.perf_counter() - self._started)
            pl_module.log("images_per_second", rate, on_step=False, on_epoch=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probabilities, entropy, the strategy's own values, the derived cell and its cost."""
        assert isinstance(pl_module, SearchModule)
        if trainer.sanity_checking or pl_module.genotype is None or not isinstance(trainer.logger, TensorBoardLogger):
            return
        again = self.epochs[-1:] == [trainer.current_epoch]  # a validation that was cut short
        if is_shown(trainer, self.max_columns) and not again:
            self.epochs.append(trainer.current_epoch)
            self.history.append(pl_module.search.probabilities().float().cpu().numpy())
        self._has_shown = True
        self._show(trainer, pl_module, trainer.logger)

    def _show(self, trainer: Trainer, pl_module: SearchModule, logger: TensorBoardLogger) -> None:
        assert pl_module.genotype is not None
        step = trainer.fit_loop.total_batch_idx
        probabilities = pl_module.search.probabilities().float().cpu()
        rows = probabilities / probabilities.sum(dim=1, keepdim=True).clamp_min(1e-12)
        space, cost = pl_module.supernet.space, pl_module.cost(pl_module.genotype)
        scalars = {
            "arch/entropy": float(torch.special.entr(rows).sum(dim=1).mean()),
            "derived/params": cost.params,
            "derived/macs": cost.macs,
            "derived/num_skips": pl_module.genotype.ops.count(SKIP),
            **{
                f"arch/{name}": value
                for part in (pl_module.search, *pl_module.terms)
                for name, value in part.scalars().items()
            },
        }
        for (target, source), row in zip(space.edges, probabilities.tolist(), strict=True):
            for op, value in zip(space.ops, row, strict=True):
                scalars[f"edge_{source}_to_{target}/{op}"] = value
        logger.log_metrics(scalars, step=step)
        if not trainer.is_global_zero:  # a drawing takes its time
            return
        if is_shown(trainer, self.max_cells):
            logger.experiment.add_figure("derived/cell", draw_cell(pl_module.genotype), step)
        if is_shown(trainer, self.max_heat_maps):
            logger.experiment.add_figure("arch/probabilities", heat_map(self.history, self.epochs, space), step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In the last epoch, show the cell that was derived without a validation."""
        if trainer.current_epoch + 1 == trainer.max_epochs and self.epochs[-1:] != [trainer.current_epoch]:
            self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill the table of hyperparameters with the accuracies of the cell; show a cell that was gone back to."""
        assert isinstance(pl_module, SearchModule)
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        if self._has_shown and pl_module.went_back:
            self._show(trainer, pl_module, trainer.logger)
        # Under names of their own: the table writes at step 0, which would bend the curves back.
        metrics = pl_module.record()["metrics"]
        if final := {name.replace("val/", "final/"): value for name, value in metrics.items()}:
            trainer.logger.log_hyperparams(hyperparameters(trainer, pl_module), final)

    def state_dict(self) -> dict[str, Any]:
        """The probabilities so far: the heat map of a resumed run shows the whole time."""
        return {"epochs": self.epochs, "history": torch.from_numpy(np.array(self.history, dtype=np.float32))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.epochs = list(state_dict["epochs"])
        self.history = list(state_dict["history"].numpy())


def is_shown(trainer: Trainer, most: int) -> bool:
    """Whether the validation of this epoch is one of the ``most`` that are shown of a run."""
    epochs, every = trainer.max_epochs or 1, trainer.check_val_every_n_epoch or 1
    stride = -(-epochs // (every * most))
    return (trainer.current_epoch // every + 1) % stride == 0 or trainer.current_epoch + every >= epochs


def hyperparameters(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What model and data were made with, as plain containers, numbers and text."""
    data: LightningDataModule | None = getattr(trainer, "datamodule", None)
    groups = {"model": module.hparams, "data": {} if data is None else data.hparams}
    return {name: _plain(values) for name, values in groups.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if not str(key).startswith("_")}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
