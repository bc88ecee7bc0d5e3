"""Search: train a supernet and derive a cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import TensorBoardLogger

from supernet.callbacks import GenotypeExport, SearchPictures, run_dir
from supernet.cli.base import CommandLine, command, describe_cell
from supernet.cli.checkpoint import read_checkpoint
from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.module import CHECKPOINT_KEY, SearchModule

_USAGE = "train.py [--config FILE] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"

_DESCRIPTION = """Search a cell with a weight-sharing supernet.

Without --config it runs the quick start on embedded images; configs/ holds the reference protocols."""


class SearchCommand(CommandLine):
    """The command line of a search."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take the shape of the images from the data; GDAS and 50 epochs unless told otherwise."""
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint of a search to go on with.")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.image_shape", "model.image_shape", apply_on="instantiate")
        parser.set_defaults({"model.search": {"class_path": "supernet.strategies.GDAS"}, "trainer.max_epochs": 50})

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
        Exit status: 0; 2 for a mistake of the user; 130 for a search that was stopped from outside.
    """
    if quick_start is not None and not any(arg.partition("=")[0] in ("-c", "--config") for arg in args):
        args = ["--config", str(quick_start), *args]
    return command(_search, args)


def _search(args: Sequence[str]) -> None:
    cli = SearchCommand(SearchModule, SearchData, args, _USAGE, _DESCRIPTION, [GenotypeExport(), SearchPictures()])
    if cli.config.ckpt_path is not None:
        check_resume(cli, read_checkpoint(cli.config.ckpt_path))
    cli.fit(ckpt_path=cli.config.ckpt_path, weights_only=True)
    model, folder = cli.model, run_dir(cli.trainer)
    width, depth = model.skeleton["channels"], model.skeleton["num_cells"]
    print(describe_cell(model.genotype, f"{model.cost(model.genotype)} at C={width}, N={depth} as searched"))
    print(f"genotype     {folder / 'genotype.json'}")
    if isinstance(cli.trainer.logger, TensorBoardLogger):
        print(f"TensorBoard  tensorboard --logdir {folder.parent.parent}")
    print(f"retrain it   python derive.py {cli.kept()}")
    if cli.datamodule.name == "digits":
        print(
            "\nThe real thing, the reference protocol on CIFAR-10 (a GPU helps; fetches 170 MB):\n"
            "             python train.py --config configs/gdas.yaml --data.download true"
        )


def check_resume(cli: SearchCommand, checkpoint: dict[str, Any]) -> None:
    """Refuse to go on with other options than a search began with: half of them would be ignored.

    Raises:
        SupernetError: names the first option that differs.
    """
    began = {
        **{f"model.{name}": value for name, value in checkpoint["hyper_parameters"].items()},
        **{f"data.{name}": value for name, value in checkpoint["datamodule_hyper_parameters"].items()},
        "trainer.max_epochs": checkpoint[CHECKPOINT_KEY].get("num_epochs"),
    }
    now = {
        **{f"model.{name}": value for name, value in cli.model.hparams.items()},
        **{f"data.{name}": value for name, value in cli.datamodule.hparams.items()},
        "trainer.max_epochs": cli.trainer.max_epochs,
    }
    for name, value in began.items():
        where_it_lies = name in ("data.root", "data.download", "data.on_device", "data.eval_batch_size")
        if not where_it_lies and now.get(name) != value:
            raise SupernetError(
                f"a search goes on as it began: --{name} was {value}, now it is {now.get(name)}; repeat the options of"
                " its config.yaml, or start a new search without --ckpt_path"
            )
    if checkpoint.get("epoch", -1) + 1 >= cli.trainer.max_epochs:
        raise SupernetError(
            f"this search has ended after its {cli.trainer.max_epochs} epochs; python derive.py takes its checkpoint"
        )
