"""Search: train a supernet and derive a cell."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import TensorBoardLogger

from supernet.benchmark.tabulated import Tabulated, check_tabulated
from supernet.callbacks import GenotypeExport, SearchPictures, TabulatedAccuracy
from supernet.cli.base import CommandLine, describe_cell
from supernet.cli.command import command
from supernet.cli.table import open_tabulated, other_images
from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.module import SearchModule

_USAGE = "train.py [--config FILE] [--table FILE] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"

_DESCRIPTION = """Search a cell with a weight-sharing supernet.

Without --config it runs the quick start on embedded images; configs/ holds the reference protocols."""


class SearchCommand(CommandLine):
    """The command line of a search."""

    tabulated: Tabulated | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take the shape of the images from the data; GDAS and 50 epochs unless told otherwise."""
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.image_shape", "model.image_shape", apply_on="instantiate")
        parser.set_defaults({"model.search": {"class_path": "supernet.strategies.GDAS"}, "trainer.max_epochs": 50})

    def before_instantiate_classes(self) -> None:
        """Open the table, if there is one, before anything takes time."""
        self.tabulated = open_tabulated(self.config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with what leaves the cell behind."""
        tabulated = self.tabulated
        callbacks: list[Callback] = [GenotypeExport(tabulated.record if tabulated else None), SearchPictures()]
        if tabulated is not None:
            check_tabulated(self.model.supernet.space, tabulated.table.source)
            callbacks.append(TabulatedAccuracy(tabulated.table, tabulated.column))
        self.trainer_defaults["callbacks"][:0] = callbacks
        return super().instantiate_trainer(**kwargs)

    def run_name(self) -> str:
        """Strategy and data set."""
        strategy = self.config.model.search.class_path.rpartition(".")[2]
        return f"{strategy.lower()}_{self.config.data.name}"


def search(args: Sequence[str], quick_start: Path | None = None) -> int:
    """Run a search from a command line and print what it found.

    Args:
        args: the command line, without the name of the program.
        quick_start: configuration for a command line that names none.

    Returns:
        Exit status: 0; 2 for a mistake of the user; 128 and the number of the signal for a search that was stopped.
    """
    if quick_start is not None and not any(arg.partition("=")[0] in ("-c", "--config") for arg in args):
        args = ["--config", str(quick_start), *args]
    return command(_search, args)


def _search(args: Sequence[str]) -> None:
    with closing(SearchCommand(SearchModule, SearchData, args, _USAGE, _DESCRIPTION)) as cli:
        told = cli.tabulated and other_images(cli.tabulated, cli.datamodule.name)
        if told and cli.trainer.is_global_zero:
            print(told, flush=True)
        cli.fit()
        if cli.trainer.is_global_zero:
            _report(cli)


def _report(cli: SearchCommand) -> None:
    model, folder = cli.model, cli.folder
    if model.genotype is None:
        raise SupernetError(f"{cli.kept()} says that it is finished and has no cell; leave --resume out to begin anew")
    width, depth = model.skeleton["channels"], model.skeleton["num_cells"]
    print(describe_cell(model.genotype, f"{model.cost(model.genotype)} at C={width}, N={depth} as searched"))
    if cli.tabulated is not None:
        print(f"tabulated    {cli.tabulated.told(model.genotype)}")
    print(f"genotype     {folder / 'genotype.json'}")
    if isinstance(cli.trainer.logger, TensorBoardLogger):
        print(f"TensorBoard  tensorboard --logdir {folder.parent.parent}")
    print(f"retrain it   python derive.py {cli.kept()}")
    if cli.datamodule.name == "digits":
        print(
            "\nThe real thing, the reference protocol on CIFAR-10 (a GPU helps; fetches 170 MB):\n"
            "             python train.py --config configs/gdas.yaml --data.download true"
        )
