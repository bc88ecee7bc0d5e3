"""Looking at a search: the losses of its validation, the cell it stands for, and cells compared with shared parameters.

Nothing here changes what is trained. Shapes: E edges, O candidate operations; a mixture is (E, O).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from supernet.derivation import Derivation
from supernet.descent import right_answers
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.network import Supernet
from supernet.ranks import add_up, total
from supernet.recalibration import Ablation, recalibrated
from supernet.replay import Recorder
from supernet.strategies import Batch, SearchStrategy
from supernet.tally import MeanLoss


class SearchValidation(LightningModule):
    """The half of `supernet.module.SearchModule` that only looks."""

    supernet: Supernet
    search: SearchStrategy
    derivation: Derivation | None
    recorder: Recorder
    genotype: Genotype | None
    """The cell that was derived last."""

    of_genotype: dict[str, Any]
    """What is known of a cell that was derived in an earlier epoch, as in `supernet.module.SearchModule.record`."""

    halted: bool
    """Whether the guard has gone back to an earlier cell, which is kept from now on."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.halted = False
        self._drawn: Tensor | None = None
        self.of_genotype: dict[str, Any] = {}

        def accuracy() -> MulticlassAccuracy:
            return MulticlassAccuracy(num_classes, average="micro", validate_args=False)

        self.mixed_accuracy, self.derived_accuracy = accuracy(), accuracy()
        self.mixed_loss = MeanLoss()
        self.ablation = Ablation(num_classes)

    @property
    def went_back(self) -> bool:
        """Whether the guard has put back an earlier cell since the last validation."""
        return "metrics" in self.of_genotype

    def forward(self, images: Tensor, mixture: Tensor) -> Tensor:
        """Class logits of normalised images under a mixture, in the precision of the parameters."""
        logits: Tensor = self.supernet(images.to(self.dtype), mixture)
        return logits

    def look(self, images: Tensor, mixture: Tensor) -> Tensor:
        """The logits of `forward` without gradients, replayed where steps are: use them before anything else is."""
        (logits,) = self.recorder("look", lambda *inputs: (self(*inputs),), images, mixture)
        return logits

    def loss(self, mixture: Tensor, batch: Batch, accuracy: MulticlassAccuracy) -> Tensor:
        """Cross-entropy of the supernet under a mixture, a scalar; ``accuracy`` counts the right answers."""
        images, labels = batch
        logits = self.look(images, mixture)
        accuracy.update(logits, labels)
        return F.cross_entropy(logits, labels)

    def on_validation_start(self) -> None:
        """Remember the strategy's generator: looking at a search must not change what it draws."""
        self._drawn = self.search.generator.get_state()

    def on_validation_end(self) -> None:
        """Put the strategy's generator back."""
        if self._drawn is not None:
            self.search.generator.set_state(self._drawn)
        self._drawn = None

    def on_validation_epoch_start(self) -> None:
        """Derive the cell that this epoch stands for, and gather its statistics where they are asked for."""
        if not self.trainer.sanity_checking:
            genotype = self.derive()
            if calibration := self._calibration():
                paths = islice(self.search.samples(), Ablation.NUM_PATHS)
                with self.trainer.precision_plugin.val_step_context():
                    self.ablation.begin(self.supernet, genotype, paths, calibration)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of the mixture, and accuracy of the derived cell, with shared parameters."""
        self.mixed_loss.add(self.loss(self.search(), batch, self.mixed_accuracy), len(batch[1]))
        if self.genotype is not None:  # there is none in Lightning's sanity check
            self.loss(self.supernet.one_hot(self.genotype), batch, self.derived_accuracy)
            self.ablation.update(batch[0].to(self.dtype), batch[1])

    def on_validation_epoch_end(self) -> None:
        """The gap between what is trained and what will be kept."""
        loss = self.mixed_loss.take()
        if self.trainer.sanity_checking:
            self.mixed_accuracy.reset()
            return
        self.of_genotype.pop("metrics", None)  # those of a cell that is kept are now these
        self.log("val/loss", loss)
        mixed, derived = self.mixed_accuracy.compute(), self.derived_accuracy.compute()
        self.log("val/mixed_accuracy", mixed)
        self.log("val/derived_accuracy", derived, prog_bar=True)
        self.log("val/gap", mixed - derived)
        for name, accuracy in self.ablation.take().items():
            self.log(f"val/{name}_accuracy", accuracy)
        self.mixed_accuracy.reset()
        self.derived_accuracy.reset()

    def derive(self) -> Genotype:
        """Derive a cell, in the way of the strategy or as it was asked for; or keep the one that was gone back to."""
        if self.halted and self.genotype is not None:
            return self.genotype
        way, score, self.of_genotype = self.derivation, self.scorer(), {}
        self.genotype = self.search.derive(score) if way is None else way.derive(self.search, score)
        return self.genotype

    def scorer(self) -> Callable[[Genotype | Tensor], float]:
        """`score` on the first ``score_images`` images of the validation loader, for cells and for mixtures."""
        batches: list[Batch] = []
        calibration: list[Tensor] = []

        def score(cell: Genotype | Tensor) -> float:
            if not batches:  # a strategy may derive without comparing anything
                batches.extend(self.score_batches())
                calibration.extend(self._calibration())
            return self.score(cell, batches, calibration)

        return score

    def score_batches(self) -> Iterator[Batch]:
        """The batches on which cells are compared, on the device."""
        return self._first(self._data().val_dataloader(), self.hparams["score_images"])

    def _calibration(self) -> list[Tensor]:
        """The images on which a cell gathers its statistics, in batches on the device; none if it gathers none."""
        if not (num_images := self.hparams["recalibration_images"]):
            return []
        return [images.to(self.dtype) for images, _ in self._first(self._calibration_loader(), num_images)]

    def _calibration_loader(self) -> Iterable[Batch]:
        make: Callable[[], Iterable[Batch]] | None = getattr(self._data(), "calibration_dataloader", None)
        if make is None:
            raise SupernetError(
                "recalibration_images takes images that are not augmented: give the LightningDataModule a method"
                " calibration_dataloader(), as SearchData has it"
            )
        return make()

    def _first(self, loader: Iterable[Batch], num_images: int) -> Iterator[Batch]:
        """The first batches that hold so many images, on the device."""
        seen = 0
        for batch in loader:
            images, labels = self.trainer.strategy.batch_to_device(batch)
            yield images, labels
            seen += total(len(labels), self.device)
            if seen >= num_images:
                return

    def _data(self) -> LightningDataModule:
        data: LightningDataModule | None = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise SupernetError("a search takes its images from a LightningDataModule; pass datamodule= to the Trainer")
        return data

    @torch.no_grad()
    def score(self, cell: Genotype | Tensor, batches: Iterable[Batch], calibration: Sequence[Tensor] = ()) -> float:
        """Accuracy of one cell or mixture with shared parameters, 0 to 1; of all ranks.

        Args:
            cell: a cell, or a mixture.
            batches: images and labels, on the device.
            calibration: batches of images that the statistics of a cell are made of; without, and for a mixture, they
                are those of each batch.
        """
        right, seen = torch.zeros((2,), device=self.device).unbind()
        with self.trainer.precision_plugin.val_step_context():
            mixture = self.supernet.one_hot(cell) if isinstance(cell, Genotype) else cell
            answer: Callable[[Tensor], Tensor] = partial(self.look, mixture=mixture)
            if calibration and isinstance(cell, Genotype):
                answer = recalibrated(self.supernet, cell, calibration)
            for images, labels in batches:
                right += right_answers(answer(images.to(self.dtype)), labels)
                seen += len(labels)
        add_up([right, seen])
        return float(right) / float(seen)
