"""Search: train a supernet and derive a cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.cli import LightningArgumentParser

from supernet.callbacks import GenotypeExport, SearchPictures, run_dir
from supernet.cli.base import CommandLine, command
from supernet.data import SearchData
from supernet.module import SearchModule
from supernet.plot import sketch_cell

_DESCRIPTION = """Search a cell with a weight-sharing supernet.

Without --config it runs the quick start on embedded images; configs/ holds the reference protocols."""


class SearchCommand(CommandLine):
    """The command line of a search."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take the shape of the images from the data, and GDAS unless a strategy is named."""
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint of a search to go on with.")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.image_shape", "model.image_shape", apply_on="instantiate")
        parser.set_defaults({"model.search": {"class_path": "supernet.strategies.GDAS"}})

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
        Exit status: 0, or 2 for a mistake of the user.
    """
    named = any(arg.partition("=")[0] in ("-c", "--config") for arg in args)
    if quick_start is not None and not named:
        args = ["--config", str(quick_start), *args]
    return command(_search, args)


def _search(args: Sequence[str]) -> None:
    cli = SearchCommand(SearchModule, SearchData, args, _DESCRIPTION, [GenotypeExport(), SearchPictures()])
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path)
    print(cli.config)
    _report(cli)


def _report(cli: SearchCommand) -> None:
    model, trainer = cli.model, cli.trainer
    genotype = model.genotype
    folder = run_dir(trainer)
    print(f"\nDerived cell (official index {genotype.index}):\n  {genotype}\n\n{sketch_cell(genotype)}\n")
    print(model.cost(genotype))
