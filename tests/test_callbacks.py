from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from scipy.stats import entropy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from supernet.callbacks import GenotypeExport, SearchPictures
from supernet.cost import cost
from supernet.data import SearchData
from supernet.genotype import Genotype
from supernet.module import SearchModule
from supernet.plot import draw_cell
from supernet.strategies import DARTS, GDAS, RandomSearch, SearchStrategy

EPOCHS, BATCHES = 3, 4


class Notes(Callback):
    """What the strategy holds and what lies in the folder when each validation has ended."""

    def __init__(self) -> None:
        self.probabilities: list[torch.Tensor] = []
        self.cells: list[Genotype] = []
        self.files: list[str | None] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SearchModule)
        self.probabilities.append(pl_module.search.probabilities().clone())
        if pl_module.genotype is not None:
            self.cells.append(pl_module.genotype)
        path = Path(trainer.default_root_dir) / "genotype.json"
        self.files.append(json.loads(path.read_text())["genotype"] if path.exists() else None)


class Run(NamedTuple):
    module: SearchModule
    trainer: Trainer
    notes: Notes
    events: EventAccumulator
    folder: Path


def run(folder: Path, search: SearchStrategy, pictures: SearchPictures | None = None, **options: Any) -> Run:
    seed_everything(0)
    module = SearchModule(search, 2, 1, image_shape=(1, 8, 8), arch_lr=0.3)
    notes, logger = Notes(), TensorBoardLogger(folder, name="run", version=0, default_hp_metric=False)
    callbacks = [GenotypeExport(), pictures or SearchPictures(), notes]
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"max_epochs": EPOCHS, "limit_train_batches": BATCHES, "log_every_n_steps": 1}
    fixed: dict[str, Any] = {"accelerator": "cpu", "enable_checkpointing": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        **{
            **quiet,
            **defaults,
            **fixed,
            "logger": logger,
            "callbacks": callbacks,
            "default_root_dir": folder,
            **options,
        }
    )
    trainer.fit(module, datamodule=SearchData())
    events = EventAccumulator(str(logger.log_dir), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    return Run(module, trainer, notes, events, folder)


@pytest.fixture(scope="module")
def gdas(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("gdas"), GDAS(tau_max=5.0, tau_min=1.0))


def values(run: Run, tag: str) -> list[float]:
    return [event.value for event in run.events.Scalars(tag)]


def test_everything_a_user_wants_to_watch_is_there(gdas: Run) -> None:
    wanted = {f"{part}/{value}" for part in ("network", "arch") for value in ("loss", "accuracy", "lr")}
    wanted |= {"arch/temperature", "arch/entropy", "val/gap", "val/mixed_accuracy", "val/derived_accuracy"}
    wanted |= {"derived/params", "derived/macs", "images_per_second"}
    space = gdas.module.supernet.space
    wanted |= {f"edge_{source}_to_{target}/{op}" for target, source in space.edges for op in space.ops}
    assert wanted <= set(gdas.events.Tags()["scalars"])
    assert {"derived/cell", "arch/probabilities"} <= set(gdas.events.Tags()["images"])
    assert "hyperparameters/text_summary" in gdas.events.Tags()["tensors"]


def test_one_random_search_has_no_architecture_curves(tmp_path: Path) -> None:
    tags = run(tmp_path, RandomSearch(num_samples=1), max_epochs=1).events.Tags()["scalars"]
    assert "network/loss" in tags
    assert not {"arch/loss", "arch/accuracy", "arch/lr", "arch/temperature"} & set(tags)


def test_steps_count_batches_and_not_optimizer_steps(gdas: Run) -> None:
    assert gdas.trainer.global_step == 2 * EPOCHS * BATCHES  # two optimizers: Lightning's own count is double
    last_of_epoch = [BATCHES * (epoch + 1) - 1 for epoch in range(EPOCHS)]
    assert [event.step for event in gdas.events.Scalars("network/loss")] == list(range(EPOCHS * BATCHES))
    for tag in ("network/accuracy", "network/lr", "images_per_second", "arch/entropy", "edge_0_to_1/none"):
        assert [event.step for event in gdas.events.Scalars(tag)] == last_of_epoch
    assert [event.step for event in gdas.events.Images("derived/cell")] == last_of_epoch


def test_entropy_and_probabilities_are_those_of_the_strategy(gdas: Run) -> None:
    space = gdas.module.supernet.space
    for epoch, probabilities in enumerate(gdas.notes.probabilities):
        for (target, source), row in zip(space.edges, probabilities.tolist(), strict=True):
            seen = [values(gdas, f"edge_{source}_to_{target}/{op}")[epoch] for op in space.ops]
            assert seen == pytest.approx(row, rel=1e-5)
        expected = float(np.mean(entropy(probabilities.double().numpy(), axis=1)))
        assert values(gdas, "arch/entropy")[epoch] == pytest.approx(expected, rel=1e-5)
    assert not gdas.notes.probabilities[0].equal(gdas.notes.probabilities[-1])


def test_the_gap_is_what_the_mixture_has_and_the_derived_cell_has_not(gdas: Run) -> None:
    mixed, derived = values(gdas, "val/mixed_accuracy"), values(gdas, "val/derived_accuracy")
    assert values(gdas, "val/gap") == pytest.approx([a - b for a, b in zip(mixed, derived, strict=True)], abs=1e-6)
    data = SearchData()
    data.setup()
    assert data.normalise is not None
    images, labels = data.sets["val"]
    network = gdas.module.supernet.inherit(gdas.notes.cells[-1]).train()
    # 719 images in two batches of nearly equal size: search cells normalise by the statistics of the batch.
    right = sum(
        int((network(data.normalise(part)).argmax(1) == truth).sum())
        for part, truth in zip(images.tensor_split(2), labels.tensor_split(2), strict=True)
    )
    assert derived[-1] == pytest.approx(right / len(labels), abs=1e-6)


def test_the_cost_is_that_of_the_derived_cell(gdas: Run) -> None:
    expected = [cost(cell, 2, 1, 10, (1, 8, 8)) for cell in gdas.notes.cells]
    assert values(gdas, "derived/params") == [size.params for size in expected]
    assert values(gdas, "derived/macs") == [size.macs for size in expected]


def test_temperature_and_learning_rates_follow_their_schedules(gdas: Run) -> None:
    assert values(gdas, "arch/temperature") == pytest.approx([5.0, 3.0, 1.0])
    cosine = [0.001 + 0.024 * (1 + np.cos(np.pi * epoch / EPOCHS)) / 2 for epoch in range(EPOCHS)]
    assert values(gdas, "network/lr") == pytest.approx(cosine)
    assert values(gdas, "arch/lr") == pytest.approx([0.3] * EPOCHS)


def test_images_per_second_are_positive(gdas: Run) -> None:
    assert all(np.isfinite(value) and value > 0 for value in values(gdas, "images_per_second"))


def test_each_epoch_shows_the_cell_of_that_epoch(gdas: Run) -> None:
    images = gdas.events.Images("derived/cell")
    for image, cell in zip(images, gdas.notes.cells, strict=True):
        drawn = BytesIO()
        # TensorBoard draws a figure into pixels of its own accord; the same figure gives the same pixels.
        draw_cell(cell).savefig(drawn, format="png")
        shown = np.asarray(Image.open(BytesIO(image.encoded_image_string)).convert("RGB"))
        assert np.array_equal(shown, np.asarray(Image.open(drawn).convert("RGB")))


def test_hyperparameters_are_shown_as_text_that_parses(gdas: Run) -> None:
    text = gdas.events.Tensors("hyperparameters/text_summary")[0].tensor_proto.string_val[0].decode()
    shown = json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
    model, data = shown["model"], shown["data"]
    assert (model["channels"], model["num_cells"], model["network_lr"], model["arch_lr"]) == (2, 1, 0.025, 0.3)
    assert (data["name"], data["batch_size"]) == ("digits", 64)


def test_the_genotype_file_follows_every_epoch_and_says_where_it_comes_from(gdas: Run) -> None:
    assert gdas.notes.files == [str(cell) for cell in gdas.notes.cells]
    assert len(gdas.notes.files) == EPOCHS
    assert gdas.module.genotype == Genotype.load(gdas.folder / "genotype.json")
    provenance = json.loads((gdas.folder / "genotype.json").read_text())["provenance"]
    assert (provenance["strategy"], provenance["data"], provenance["seed"]) == ("GDAS", "digits", 0)
    assert provenance["epoch"] == EPOCHS - 1
    assert provenance["cost"] == cost(gdas.notes.cells[-1], 2, 1, 10, (1, 8, 8))._asdict()
    assert provenance["metrics"]["val/derived_accuracy"] == pytest.approx(values(gdas, "val/derived_accuracy")[-1])
    assert not list(gdas.folder.glob(".genotype*"))


@pytest.mark.parametrize("every", [2, 5])
def test_the_last_epoch_leaves_its_cell_even_when_it_is_not_validated(tmp_path: Path, every: int) -> None:
    seen = run(tmp_path, DARTS(), check_val_every_n_epoch=every, limit_train_batches=2)
    record = json.loads((seen.folder / "genotype.json").read_text())
    assert record["provenance"]["epoch"] == EPOCHS - 1
    choices = seen.module.search.get_parameter("logits").argmax(dim=1).tolist()
    assert record["genotype"] == str(seen.module.supernet.space.genotype(choices)) == str(seen.module.genotype)
    assert seen.module.training


@pytest.mark.parametrize(("epochs", "every", "bound"), [(4, 1, 2), (5, 2, 1)])
def test_the_number_of_heat_maps_is_bounded_and_the_last_one_is_there(
    tmp_path: Path, epochs: int, every: int, bound: int
) -> None:
    pictures = SearchPictures(max_heat_maps=bound)
    options: dict[str, Any] = {"max_epochs": epochs, "check_val_every_n_epoch": every}
    seen = run(tmp_path, DARTS(), pictures, limit_train_batches=1, limit_val_batches=1, **options)
    maps = [event.step for event in seen.events.Images("arch/probabilities")]
    cells = [event.step for event in seen.events.Images("derived/cell")]
    assert len(cells) == -(-epochs // every)  # the last epoch is shown in any case
    assert 1 <= len(maps) <= bound + 1  # the last one comes on top
    assert maps[-1] == cells[-1]


def test_the_pictures_so_far_survive_a_checkpoint(gdas: Run, tmp_path: Path) -> None:
    gdas.trainer.save_checkpoint(tmp_path / "last.ckpt")
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    pictures = SearchPictures()
    pictures.load_state_dict(kept[pictures.state_key])
    assert pictures.epochs == list(range(EPOCHS))
    for moment, expected in zip(pictures.history, gdas.notes.probabilities, strict=True):
        np.testing.assert_allclose(moment, expected.numpy())
