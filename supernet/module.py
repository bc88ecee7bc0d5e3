"""The bilevel loop: one supernet, one search strategy, two optimizers that take turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from supernet.bilevel import Bilevel
from supernet.collapse import CollapseGuard, OnCollapse
from supernet.combinations import check_together
from supernet.cost import Cost, cost
from supernet.derivation import Derivation
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.health import BadStep, FiniteSteps
from supernet.matching import choose
from supernet.network import check_image_size
from supernet.ranks import rank
from supernet.recipe import (
    check_fraction,
    check_not_negative,
    check_positive,
    check_trainer,
    count_steps,
    is_time_to_log,
    sgd_with_cosine,
)
from supernet.replay import Recorder, recorder
from supernet.space import CellSpace
from supernet.split import Split, SplitSupernet, make_supernet
from supernet.strategies import Batch, SearchStrategy
from supernet.tally import Running, go_on
from supernet.terms import SearchTerm
from supernet.validation import SearchValidation
from supernet.versions import versions

CHECKPOINT_KEY = "supernet"
"""Where a checkpoint keeps the derived cell and its `SearchModule.record`."""


class SearchModule(SearchValidation):
    """Trains a supernet and what a search strategy learns, by turns, and derives a cell (Liu et al., 2019, alg. 1).

    Each step takes a batch of both halves: the architecture descends its loss with the network frozen, then the
    network descends the cross-entropy of the mixture on its own half. The defaults are the search recipe of
    NAS-Bench-201.

    Args:
        search: the search strategy; a class name, or the import path of a class of your own.
        channels: C, the width of the first stage.
        num_cells: N, the number of cells in each of the three stages.
        space: nodes and candidate operations of the cell.
        terms: what goes with the strategy, such as supernet.terms.CostPenalty: a list of class names.
        partial_channels: K; only one channel in K of each node goes through the operations, the others bypass them
            (PC-DARTS). Cells are compared as they are trained, with these bypasses.
        split: few-shot search: when and where the supernet is split into several, see supernet.split. For
            strategies that draw single paths; nothing is recorded as a CUDA graph, since the host has to know the path.
        warm_up_epochs: epochs at the beginning in which the architecture takes no steps.
        derivation: how the cell is derived, such as supernet.derivation.TopK; in the strategy's own way if not given.
            Its numbers count, and not those of the strategy; 'none' is excluded if either excludes it.
        collapse: what happens when the search collapses: log says so and goes on; stop ends it with the cell of the
            last healthy epoch; rewind puts the architecture back to that epoch, and trains the network on alone.
        max_skips: skip connections of a healthy derived cell, at most (Liang et al., 2019, DARTS+).
        max_eigenvalue_growth: of the dominant eigenvalue of the architecture's Hessian, smoothed over 3 epochs, within
            5 epochs; 1.33 is that of Zela et al. (2020, R-DARTS). Not watched if not given.
        eigenvalue_every: epochs from one eigenvalue to the next, each about as dear as 60 steps of the architecture;
            0: none, unless its growth is watched, which takes one an epoch.
        num_classes: number of classes; taken from the data on the command line.
        image_shape: channels, height and width of the images; taken from the data on the command line.
        network_lr: first learning rate of the network (SGD, Nesterov); falls to `network_lr_min` by a cosine.
        network_lr_min: last learning rate of the network.
        network_lr_epochs: epochs in which it falls; then it rises again in as many, and so on. If not given, it falls
            over the whole search.
        network_momentum: momentum of the network.
        network_weight_decay: weight decay of the network.
        grad_clip: largest norm of the network's gradient.
        arch_lr: learning rate of the architecture (Adam, unless the strategy says otherwise).
        arch_betas: decay of Adam's two moments, for a strategy that uses it.
        arch_weight_decay: weight decay of the architecture, for a strategy that uses it.
        score_images: validation images on which derived cells are compared with shared parameters.
        recalibration_images: images of the half that trains the network, not augmented, on which each cell that is
            compared gathers running statistics of its own (Guo et al., 2020); in whole batches, and the same images
            for all. Shown are then the accuracy of the derived cell with them, and with those gathered under other
            cells. 0: cells are normalised by the statistics of the batch at hand.
        sync_batchnorm: with several devices, normalise by the whole batch rather than by the part of each device, so
            that no figure depends on their number; costs two messages a layer.
        bad_step: at a step whose loss or gradient is not finite, stop the search, or skip the step and count it.
        cuda_graphs: on a CUDA device, record each step once and replay it; elsewhere it changes nothing.
        compile: fuse the cells by ``torch.compile``; pays for long searches only, and takes minutes on a CPU.
    """

    def __init__(
        self,
        search: SearchStrategy,
        channels: int = 16,
        num_cells: int = 5,
        space: CellSpace = CellSpace(),
        terms: list[SearchTerm] | None = None,
        partial_channels: int = 1,
        split: Split | None = None,
        warm_up_epochs: int = 0,
        derivation: Derivation | None = None,
        collapse: OnCollapse = "log",
        max_skips: int = 3,
        max_eigenvalue_growth: float | None = None,
        eigenvalue_every: int = 0,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        network_lr: float = 0.025,
        network_lr_min: float = 0.001,
        network_lr_epochs: int | None = None,
        network_momentum: float = 0.9,
        network_weight_decay: float = 5e-4,
        grad_clip: float = 5.0,
        arch_lr: float = 3e-4,
        arch_betas: tuple[float, float] = (0.5, 0.999),
        arch_weight_decay: float = 1e-3,
        score_images: int = 5_000,
        recalibration_images: int = 0,
        sync_batchnorm: bool = True,
        bad_step: BadStep = "stop",
        cuda_graphs: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.automatic_optimization = False
        check_image_size(*image_shape[1:])
        check_positive(network_lr=network_lr, arch_lr=arch_lr, grad_clip=grad_clip, score_images=score_images)
        if network_lr_epochs is not None:
            check_positive(network_lr_epochs=network_lr_epochs)
        check_fraction(network_momentum=network_momentum, arch_beta_1=arch_betas[0], arch_beta_2=arch_betas[1])
        check_not_negative(
            network_lr_min=network_lr_min,
            network_weight_decay=network_weight_decay,
            arch_weight_decay=arch_weight_decay,
            warm_up_epochs=warm_up_epochs,
            recalibration_images=recalibration_images,
        )
        if partial_channels > 1 and recalibration_images:
            raise SupernetError(
                "recalibration_images takes the networks of cells, and with partial_channels there are none that have"
                " parameters of this supernet; leave one of the two out"
            )
        self.skeleton = {"channels": channels, "num_cells": num_cells, "num_classes": num_classes}
        self.image_shape = image_shape
        sizes = {**self.skeleton, "image_channels": image_shape[0], "partial_channels": partial_channels}
        self.supernet = make_supernet(split, space, **sizes)
        if compile:
            self.supernet.compile_cells()
        self.search, self.split = search, split
        self.seed = torch.initial_seed() % 2**63
        search.bind(space, self.seed)
        search.depth = self.supernet.depth
        self.terms = nn.ModuleList(terms or ())
        for number, term in enumerate(terms or (), start=1):
            term.bind(search, (self.seed + number) % 2**63, {**self.skeleton, "image_shape": image_shape})
        check_together(search, terms or (), split, partial_channels, collapse, compile, image_shape)
        self.derivation = derivation
        if derivation is not None:
            derivation.bind(search)
        self.guard = CollapseGuard(search, collapse, max_skips, max_eigenvalue_growth, eigenvalue_every)
        self.genotype: Genotype | None = None
        self._metrics: dict[str, float] = {}
        self.running: dict[str, Running] = {}
        self._seen: dict[str, Any] = {}
        self.recorder = Recorder(self.device)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[CosineAnnealingLR]]:
        """SGD with a cosine schedule for the network; Adam for the strategy, if it has parameters."""
        hparams = self.hparams
        network, schedule = sgd_with_cosine(
            self.supernet.parameters(),
            self.trainer,
            lr=hparams["network_lr"],
            lr_min=hparams["network_lr_min"],
            epochs=hparams["network_lr_epochs"],
            momentum=hparams["network_momentum"],
            weight_decay=hparams["network_weight_decay"],
        )
        optimizers: list[Optimizer] = [network]
        if self.search.learns:
            decay = hparams["arch_weight_decay"]
            optimizers.append(self.search.make_optimizer(hparams["arch_lr"], tuple(hparams["arch_betas"]), decay))
        return optimizers, [schedule]

    def configure_callbacks(self) -> list[Callback]:
        """Stop at a bad step, or skip it; watch for a collapse."""
        rates = {name: self.hparams[name] for name in ("network_lr", "arch_lr", "grad_clip")}
        advice = f"lower one of {', '.join(f'--model.{name} (now {rates[name]})' for name in rates)}"
        return [FiniteSteps(advice, self.hparams["bad_step"]), self.guard]

    def setup(self, stage: str) -> None:
        """Forget what was recorded in a run that failed: it knows the parameters by where they lay."""
        self.supernet.synchronise(self.hparams["sync_batchnorm"])
        self.recorder = Recorder(self.device)

    def on_fit_start(self) -> None:
        """Refuse what would fail late or go wrong silently; record from now on, if that is possible here."""
        check_trainer(self.trainer)
        if self.split is not None and not self.split.epoch < (self.trainer.max_epochs or 0):
            raise SupernetError(
                f"the supernet is split in epoch {self.split.epoch}, which a search of {self.trainer.max_epochs} epochs"
                " does not reach; epochs count from 0"
            )
        warm_up, epochs = self.hparams["warm_up_epochs"], self.trainer.max_epochs or 0
        if warm_up >= epochs > 0 and self.search.learns:
            raise SupernetError(
                f"the architecture takes no step in {warm_up} epochs of warm-up, and the search has {epochs}: nothing"
                " would be learned; lower --model.warm_up_epochs"
            )
        if self.hparams["recalibration_images"]:
            self._calibration_loader()
        self.recorder = recorder(self.device, self.hparams["cuda_graphs"] and self.split is None)

    def on_train_start(self) -> None:
        """Get the steps ready; in the middle of an epoch, as that epoch had them."""
        network_optimizer, *arch_optimizers = self.trainer.optimizers
        self.bilevel = Bilevel(
            self.supernet,
            self.search,
            network_optimizer,
            arch_optimizers[0] if arch_optimizers else None,
            self.recorder,
            self.hparams["grad_clip"],
            list(self.terms),  # type: ignore[arg-type]
        )
        self.running = go_on({"arch": self.bilevel.tally, "network": self.bilevel.descent.tally}, self._seen)
        self._seen = {}
        if self.trainer.fit_loop.restarted_mid_epoch:  # the trainer calls no hook for an epoch that has begun
            self.on_train_epoch_start()

    def on_train_end(self) -> None:
        """Let go of the recordings: they hold memory, and know the parameters by where they lie."""
        del self.bilevel
        self.recorder = Recorder(self.device)

    def on_train_epoch_start(self) -> None:
        """Let strategy and terms follow their schedules."""
        num_epochs = self.trainer.max_epochs or 1
        self.search.start_epoch(self.current_epoch, num_epochs)
        for term in self.bilevel.terms:
            term.start_epoch(self.current_epoch, num_epochs)
        self._split_if_due()
        halted = self.halted or any(term.halts for term in self.bilevel.terms)
        self.bilevel.learns = self.current_epoch >= self.hparams["warm_up_epochs"] and not halted

    def _split_if_due(self) -> None:
        """Split the supernet, once, if its epoch has come; where is found on a batch of the architecture's half."""
        network, split = self.supernet, self.split
        if split is None or not isinstance(network, SplitSupernet) or network.partition is not None:
            return
        if self.current_epoch >= split.epoch:
            images, labels = next(self._arch_batches())
            found = choose(split, network, images.to(self.dtype), labels, self.seed)
            network.split(found, self.trainer.optimizers[0])
            if rank() == 0:
                print(f"the supernet is split {found.told(network.space)}", flush=True)

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """One step of the architecture, then one of the network."""
        self.bilevel.step(batch["train"], batch["val"])
        if self.trainer.is_last_batch and self.search.arch_steps_per_epoch:
            self.bilevel.arch_phase(batch["train"], self._arch_batches())
        count_steps(self.trainer, len(self.trainer.optimizers))
        if is_time_to_log(self.trainer):
            for part, running in self.running.items():
                if running.look():
                    # On the host: Lightning reads what the progress bar shows after every batch.
                    self.log(f"{part}/loss", torch.tensor(running.loss), prog_bar=True)

    def _arch_batches(self) -> Iterator[Batch]:
        """Batches of the half that trains the architecture, without end: those of this epoch, again and again."""
        while True:
            loaders: Any = self._data().train_dataloader()
            loader = loaders.iterables["val"]
            loader.sampler.set_epoch(self.current_epoch)
            for batch in loader:
                images, labels = self.trainer.strategy.batch_to_device(batch)
                yield images, labels

    def on_train_epoch_end(self) -> None:
        """Log accuracies and learning rates of this epoch, advance the network's schedule, and let terms take part."""
        for part, running in self.running.items():
            if (accuracy := running.accuracy()) is not None:
                self.log(f"{part}/accuracy", accuracy)
        for part, optimizer in zip(("network", "arch"), self.trainer.optimizers, strict=False):
            self.log(f"{part}/lr", optimizer.param_groups[0]["lr"])
        schedule = self.lr_schedulers()
        assert isinstance(schedule, CosineAnnealingLR)
        schedule.step()
        score, drawn = self.scorer(), self.search.generator.get_state()
        for term in () if self.halted else self.bilevel.terms:  # the guard has put the candidates back, to stay
            term.end_epoch(self.search, score, self.current_epoch, self.trainer.max_epochs or 1)
        self.search.generator.set_state(drawn)

    def cost(self, genotype: Genotype) -> Cost:
        """Cost of a standalone network of this cell at the width, depth and image size of the search."""
        return cost(genotype, **self.skeleton, image_shape=self.image_shape)

    def record(self) -> dict[str, Any]:
        """Where the derived cell comes from, in plain values: strategy, seed, data set, network, metrics, versions.

        The epoch is that in which it was derived; the metrics are those of the last validation of this cell.
        """
        partition = getattr(self.supernet, "partition", None)
        return {
            "strategy": type(self.search).__name__,
            "seed": self.seed,
            "data": getattr(self._data(), "name", None),
            "network": {**self.skeleton, "image_shape": list(self.image_shape)},
            "epoch": self.current_epoch,
            "num_epochs": self.trainer.max_epochs,
            "metrics": self._metrics
            | {
                name: float(value)
                for name, value in self.trainer.callback_metrics.items()
                if name.startswith("val/")  # the others lag an epoch behind when a genotype is written
            },
            "versions": versions(self.device),
            **({} if partition is None else {"split": partition.record(self.supernet.space)}),
            **self.of_genotype,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the cell and its `record`, so that the cell can be read without building the supernet again.

        A strategy that was passed in as an object stays out: a checkpoint holds tensors and plain values only, and
        loads without executing anything.
        """
        genotype = None if self.genotype is None else str(self.genotype)
        checkpoint[CHECKPOINT_KEY] = {"genotype": genotype, **self.record()}
        checkpoint["running"] = {part: running.state_dict() for part, running in self.running.items()}
        hparams = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in [name for name, value in hparams.items() if _is_object(value)]:
            del hparams[name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the derived cell, the seed it began with, and the sums of an epoch that has begun."""
        record = checkpoint.get(CHECKPOINT_KEY, {})
        genotype, self.seed = record.get("genotype"), record.get("seed", self.seed)
        self.genotype = None if genotype is None else Genotype.parse(genotype)
        self._seen, self._metrics = checkpoint.get("running", {}), dict(record.get("metrics", {}))
        if record.get("epoch", 0) < checkpoint.get("epoch", 0):  # a cell that was gone back to
            self.of_genotype = {"epoch": record["epoch"], "metrics": self._metrics}


def _is_object(value: Any) -> bool:
    """Whether a hyperparameter was passed in as an object, not as the words of a configuration."""
    if isinstance(value, list):
        return any(map(_is_object, value))
    return isinstance(value, SearchStrategy | SearchTerm | Derivation | CellSpace | Split)
