"""Derive: take the cell out of a search, and train it from scratch."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser

from supernet.benchmark.tabulated import Tabulated
from supernet.cli.base import CommandLine, describe_cell
from supernet.cli.checkpoint import build_search, read_checkpoint, recorded_genotype, search_images
from supernet.cli.command import command
from supernet.cli.protocol import beside_the_table, trained
from supernet.cli.table import open_tabulated
from supernet.cost import cost
from supernet.data import RetrainData
from supernet.derivation import TopK
from supernet.errors import SupernetError
from supernet.files import write_whole
from supernet.genotype import Genotype
from supernet.module import CHECKPOINT_KEY
from supernet.plot import draw_cell
from supernet.retrain import RetrainModule, export_program
from supernet.space import is_connected
from supernet.versions import versions

_USAGE = (
    "derive.py (CHECKPOINT | --genotype CELL) [--no_retrain] [--config FILE] [--table FILE]"
    " [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"
)

_DESCRIPTION = """Extract the cell of a search, draw it, and train it from scratch.

The cell comes from CHECKPOINT, or from --genotype. --no_retrain stops after the extraction."""


def derive(args: Sequence[str]) -> int:
    """Extract a cell from a command line and retrain it.

    Args:
        args: the command line, without the name of the program.

    Returns:
        Exit status: 0; 2 for a mistake of the user; 128 and the number of the signal for a training that was stopped.
    """
    return command(_derive, args)


class DeriveCommand(CommandLine):
    """The command line of the final training."""

    checkpoint: dict[str, Any] | None = None
    tabulated: Tabulated | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where the cell comes from, and what happens to it; the final recipe for 12 epochs."""
        parser.add_argument("checkpoint", type=str | None, nargs="?", help="Checkpoint of a search.")
        parser.add_argument(
            "--genotype", type=str | None, help="Cell string, JSON file or official index, in place of a checkpoint."
        )
        parser.add_argument("--no_retrain", action="store_true", help="Stop after the extraction.")
        parser.add_argument(
            "--top_k",
            type=int | None,
            help="Derive anew: the best of the k most likely cells on the validation images of the search.",
        )
        parser.add_argument(
            "--exclude_none", type=bool | None, help="Derive anew, without (true) or with (false) operation 'none'."
        )
        parser.set_defaults({"model.genotype": "", "data.batch_size": 256, "trainer.max_epochs": 12})
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.image_shape", "model.image_shape", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """The data set of the search is the default for the final training."""
        super().parse_arguments(parser, args)
        path, asked = self.config.checkpoint, self.config.genotype
        if (path is None) == (asked is None) or self.config.model.genotype:
            raise SupernetError("name the cell once: by a CHECKPOINT of a search, or by --genotype")
        if path is None:
            if self.config.top_k is not None or self.config.exclude_none is not None:
                raise SupernetError(
                    "--top_k and --exclude_none derive from a CHECKPOINT; a --genotype is derived already"
                )
            return
        self.checkpoint = read_checkpoint(path)
        searched = self.checkpoint["datamodule_hyper_parameters"]
        for names in (("name",), ("root", "image_size")):
            parser.set_defaults({f"data.{name}": searched[name] for name in names if name in searched})
            super().parse_arguments(parser, args)
            if self.config.data.name != searched.get("name"):
                break  # another data set lies elsewhere

    def before_instantiate_classes(self) -> None:
        """Open the table, if there is one, and find the cell."""
        self.tabulated = open_tabulated(self.config, 200 if self.config.no_retrain else self.config.trainer.max_epochs)
        path = self.config.checkpoint
        if self.checkpoint is None:
            genotype, self.record = Genotype.named(self.config.genotype), {"source": self.config.genotype}
        else:
            self.record = {"source": path, **self.checkpoint[CHECKPOINT_KEY]}
            if self.config.top_k is None and self.config.exclude_none is None:
                genotype = recorded_genotype(path, self.checkpoint)
            else:
                genotype = self._derive_anew(path, self.checkpoint)
        self.record.pop("genotype", None)
        self.config.model.genotype = str(genotype)

    def _derive_anew(self, path: str, checkpoint: dict[str, Any]) -> Genotype:
        if str(self.config.trainer.devices) != "1" or self.config.trainer.num_nodes > 1:
            raise SupernetError(
                "--top_k and --exclude_none derive on one device: do it with --no_retrain, then retrain the"
                " genotype.json that it leaves by --genotype"
            )
        if self.config.top_k is not None and self.config.top_k < 1:
            raise SupernetError(f"--top_k must be at least 1, got {self.config.top_k}")
        module = build_search(path, checkpoint)
        if self.config.top_k is not None:
            if not module.search.learns:
                raise SupernetError(
                    f"--top_k compares what is most likely, and for {type(module.search).__name__} all cells are"
                    " equally likely; leave --top_k out"
                )
            module.derivation = TopK(self.config.top_k)
            module.derivation.bind(module.search)
        if self.config.exclude_none is not None:
            (module.derivation or module.search).exclude_none = self.config.exclude_none
        data = search_images(path, checkpoint, **{name: self.config.data[name] for name in ("root", "download")})
        options: dict[str, Any] = {name: self.config.trainer[name] for name in ("accelerator", "precision")}
        options |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        metrics = Trainer(**options, devices=1).validate(module, datamodule=data, verbose=False)
        self.record["metrics"] = {name: float(value) for name, value in metrics[0].items()}
        assert module.genotype is not None
        return module.genotype

    def run_name(self) -> str:
        """One folder for each data set."""
        return f"retrain_{self.config.data.name}"


def _derive(args: Sequence[str]) -> None:
    with closing(DeriveCommand(RetrainModule, RetrainData, args, _USAGE, _DESCRIPTION)) as cli:
        if cli.trainer.is_global_zero:
            _extract(cli)
        if not cli.config.no_retrain:
            _retrain(cli, cli.folder)


def _extract(cli: DeriveCommand) -> None:
    genotype, folder = cli.model.network.genotype, cli.folder
    hparams = cli.model.hparams
    size = cost(genotype, hparams["channels"], hparams["num_cells"], cli.datamodule.num_classes, cli.model.image_shape)
    known = {} if cli.tabulated is None else {"tabulated": cli.tabulated.record(genotype)}
    genotype.save(folder / "genotype.json", {"cost": size._asdict(), **cli.record, **known})
    drawing = io.BytesIO()
    draw_cell(genotype).savefig(drawing, dpi=150)
    write_whole(folder / "cell.png", drawing.getvalue())
    print(describe_cell(genotype, str(size)))
    if not is_connected(genotype):
        print("Note: the input does not reach the output of this cell; it cannot learn more than chance.\n")
    if cli.tabulated is not None:
        print(f"tabulated  {cli.tabulated.told(genotype)}")
    print(f"genotype   {folder / 'genotype.json'}\ndrawing    {folder / 'cell.png'}")


def _retrain(cli: DeriveCommand, folder: Path) -> None:
    trainer, model, data, genotype = cli.trainer, cli.model, cli.datamodule, cli.model.network.genotype
    cli.fit()
    seconds, epochs = cli.keeper.seconds, trainer.current_epoch
    tested = trainer.test(model, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return
    accuracy = tested[0].get("test/accuracy") if tested else None
    beside: dict[str, Any] = {}
    told = None
    if cli.tabulated is not None:
        beside, told = beside_the_table(cli.tabulated, trained(trainer, model, data), genotype, accuracy)
    result = {
        "genotype": str(genotype),
        "data": data.name,
        "test_accuracy": accuracy,
        "epochs": epochs,
        "seed": torch.initial_seed(),
        "seconds": round(seconds, 1),
        "hyperparameters": {name: value for name, value in model.hparams.items() if not name.startswith("_")},
        "batch_size": data.batch_size,
        "versions": versions(trainer.strategy.root_device),
        **beside,
    }
    write_whole(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    program = export_program(model.network, data.normalise, model.image_shape, folder / "network.pt2")
    where = "CUDA" if trainer.strategy.root_device.type == "cuda" else trainer.strategy.root_device.type.upper()
    print(f"checkpoint {cli.kept()}\nprogram    {program}\nresult     {folder / 'result.json'}\n")
    if accuracy is None:
        print("Not tested: no test batch was allowed.")
    else:
        print(
            f"Test accuracy on {data.name}: {100 * accuracy:.2f} %, {epochs} epochs from scratch in {seconds:.0f} s"
            f" on {where}, last epoch"
        )
    if told:
        print(told)
