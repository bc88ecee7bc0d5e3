"""Search: train a supernet and derive a cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.cli import LightningArgumentParser

from supernet.callbacks import GenotypeExport, SearchPictures, run_dir
from supernet.cli.base import CommandLine, command, describe_cell
from supernet.data import SearchData
from supernet.module import SearchModule

_USAGE = "train.py [--config FILE] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"

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
    return command(_search, args, quick_start)


def _search(args: Sequence[str]) -> None:
    cli = SearchCommand(SearchModule, SearchData, args, _USAGE, _DESCRIPTION, [GenotypeExport(), SearchPictures()])
    model, trainer = cli.model, cli.trainer
    trainer.fit(model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True)
    folder = run_dir(trainer)
    width, depth = model.skeleton["channels"], model.skeleton["num_cells"]
    print(
        f"{describe_cell(model.genotype, f'{model.cost(model.genotype)} at C={width}, N={depth} as searched')}\n"
        f"genotype     {folder / 'genotype.json'}\n"
        f"TensorBoard  tensorboard --logdir {folder.parent.parent}\n"
        f"retrain it   python derive.py {folder / 'checkpoints' / 'last.ckpt'}"
    )
    if cli.datamodule.name == "digits":
        print("\nThe real thing, the reference protocol on CIFAR-10 (a GPU helps; fetches 170 MB):\n"
              "             python train.py --config configs/gdas.yaml --data.download true")  # fmt: skip
