"""Derive: take the cell out of a search, and train it from scratch."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser

from supernet.callbacks import run_dir
from supernet.cli.base import CommandLine, command, describe_cell
from supernet.cost import cost
from supernet.data import RetrainData, SearchData
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import CHECKPOINT_KEY, SearchModule
from supernet.plot import draw_cell
from supernet.retrain import RetrainModule, export_program
from supernet.space import is_connected
from supernet.strategies import FactorisedSearch
from supernet.versions import versions

_USAGE = (
    "derive.py (CHECKPOINT | --genotype CELL) [--no_retrain] [--config FILE]"
    " [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"
)

_DESCRIPTION = """Extract the cell of a search, draw it, and train it from scratch.

The cell comes from CHECKPOINT, or from --genotype. --no_retrain stops after the extraction."""


def derive(args: Sequence[str], default_config: Path | None = None) -> int:
    """Extract a cell from a command line and retrain it.

    Args:
        args: the command line, without the name of the program.
        default_config: configuration for a command line that names none.

    Returns:
        Exit status: 0, or 2 for a mistake of the user.
    """
    return command(_derive, args, default_config)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Load the checkpoint of a search without executing anything from it.

    Raises:
        SupernetError: there is no such file, or it is damaged, or no checkpoint of a search.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SupernetError(f"there is no checkpoint {path}; a search leaves one in its checkpoints folder") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise SupernetError(f"{path} is damaged, or no checkpoint at all ({type(error).__name__})") from None
    except pickle.UnpicklingError:
        raise SupernetError(f"{path} is no checkpoint: it holds something else than tensors and plain values") from None
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise SupernetError(f"{path} is a checkpoint of something else than a search; pass one that train.py wrote")
    return checkpoint


def parse_genotype(text: str) -> Genotype:
    """A cell from whatever names it: a cell string, an official index, or a JSON file."""
    text = text.strip()
    if text.lstrip("-").isdecimal():
        return Genotype.from_index(int(text[:12]))
    return Genotype.parse(text) if "|" in text or "~" in text else Genotype.load(text)


class DeriveCommand(CommandLine):
    """The command line of the final training."""

    record: dict[str, Any]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where the cell comes from, and what happens to it."""
        parser.add_argument("checkpoint", type=str | None, nargs="?", help="Checkpoint of a search.")
        parser.add_argument(
            "--genotype",
            type=str | None,
            help="Cell string, JSON file or official index, in place of a checkpoint.",
        )
        parser.add_argument("--no_retrain", action="store_true", help="Stop after the extraction.")
        parser.add_argument(
            "--top_k",
            type=int | None,
            help="Derive anew: the best of the k most likely cells on the validation images of the search.",
        )
        parser.add_argument(
            "--exclude_none",
            type=bool | None,
            help="Derive anew, without (true) or with (false) operation 'none'.",
        )
        parser.set_defaults({"model.genotype": ""})
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.image_shape", "model.image_shape", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Find the cell; the data set of the search is the default for the final training."""
        super().parse_arguments(parser, args)
        path, asked = self.config.checkpoint, self.config.genotype
        if (path is None) == (asked is None):
            raise SupernetError("name the cell once: by a CHECKPOINT of a search, or by --genotype")
        if path is None:
            genotype, self.record = parse_genotype(asked), {"source": asked}
        else:
            checkpoint = read_checkpoint(path)
            hparams = checkpoint.get("datamodule_hyper_parameters", {})
            kept = ("name", "root", "image_size")
            parser.set_defaults({f"data.{name}": hparams[name] for name in kept if name in hparams})
            super().parse_arguments(parser, args)
            self.record = {"source": path, **checkpoint[CHECKPOINT_KEY]}
            genotype = self._from_search(path, checkpoint)
        self.record.pop("genotype", None)
        self.config.model.genotype = str(genotype)

    def _from_search(self, path: str, checkpoint: dict[str, Any]) -> Genotype:
        top_k, exclude_none = self.config.top_k, self.config.exclude_none
        if top_k is None and exclude_none is None:
            found = checkpoint[CHECKPOINT_KEY]["genotype"]
            if found is None:
                raise SupernetError(f"{path} was saved before a cell was derived; pass --top_k 1 to derive one now")
            return Genotype.parse(found)
        module = SearchModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        if top_k is not None and not isinstance(module.search, FactorisedSearch):
            raise SupernetError(f"{type(module.search).__name__} has no most likely cells: leave --top_k out")
        for option, value in {"top_k": top_k, "exclude_none": exclude_none}.items():
            if value is not None:
                setattr(module.search, option, value)
        hparams = checkpoint["datamodule_hyper_parameters"]
        hparams = {name: value for name, value in hparams.items() if not name.startswith("_")}
        data = SearchData(**{**hparams, "root": self.config.data.root})
        trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, devices=1)
        metrics = trainer.validate(module, datamodule=data, verbose=False)[0]
        self.record["metrics"] = {name: float(value) for name, value in metrics.items()}
        assert module.genotype is not None
        return module.genotype

    def run_name(self) -> str:
        """One folder for each data set."""
        return f"retrain_{self.config.data.name}"


def _derive(args: Sequence[str]) -> None:
    cli = DeriveCommand(RetrainModule, RetrainData, args, _USAGE, _DESCRIPTION, [])
    genotype, folder = cli.model.network.genotype, run_dir(cli.trainer)
    folder.mkdir(parents=True, exist_ok=True)
    hparams = cli.model.hparams
    size = cost(genotype, hparams["channels"], hparams["num_cells"], cli.datamodule.num_classes, cli.model.image_shape)
    genotype.save(folder / "genotype.json", {"cost": size._asdict(), **cli.record})
    draw_cell(genotype).savefig(folder / "cell.png", dpi=150)
    print(describe_cell(genotype, str(size)))
    if not is_connected(genotype):
        print("Note: the input does not reach the output of this cell; it cannot learn more than chance.\n")
    print(f"genotype   {folder / 'genotype.json'}\ndrawing    {folder / 'cell.png'}")
    if not cli.config.no_retrain:
        _retrain(cli, folder)


def _retrain(cli: DeriveCommand, folder: Path) -> None:
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started
    accuracy = trainer.test(model, datamodule=data, verbose=False)[0]["test/accuracy"]
    program = export_program(model.network, data.normalise, model.image_shape, folder / "network.pt2")
    result = {
        "genotype": str(model.network.genotype),
        "data": data.name,
        "test_accuracy": accuracy,
        "epochs": trainer.max_epochs,
        "seed": torch.initial_seed(),
        "seconds": round(seconds, 1),
        "hyperparameters": {name: value for name, value in model.hparams.items() if not name.startswith("_")},
        "batch_size": data.batch_size,
        "versions": versions(),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    where = "CUDA" if trainer.strategy.root_device.type == "cuda" else trainer.strategy.root_device.type.upper()
    print(
        f"checkpoint {folder / 'checkpoints' / 'last.ckpt'}\nprogram    {program}\nresult     {folder / 'result.json'}"
        f"\n\nTest accuracy on {data.name}: {100 * accuracy:.2f} %, {trainer.max_epochs} epochs from scratch"
        f" in {seconds:.0f} s on {where}, last epoch"
    )
