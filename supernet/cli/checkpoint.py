"""Reading the checkpoint of a search: nothing in it is executed, and nothing in it is believed."""

from __future__ import annotations

import argparse
import json
import pickle
from typing import Any

import torch

from supernet.cli.archive import check_archive
from supernet.cli.configuration import check_named_files
from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import CHECKPOINT_KEY, SearchModule
from supernet.space import CellSpace
from supernet.split import Split, make_supernet

_DAMAGE = (RuntimeError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError)
"""What libraries raise when they are handed parts that do not fit together."""


def load_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint of any training.

    Raises:
        SupernetError: there is no such file, or it is damaged.
    """
    try:
        check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SupernetError(f"there is no checkpoint {path}; a search leaves one in its checkpoints folder") from None
    except (OSError, ValueError) as error:
        raise SupernetError(f"{path} is no checkpoint at all, or is damaged: {error}") from None
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        raise SupernetError(f"{path} is no checkpoint at all, or is damaged ({type(error).__name__})") from None
    if not isinstance(checkpoint, dict):
        raise SupernetError(f"{path} is a checkpoint of something else: it holds {type(checkpoint).__name__}")
    return checkpoint


def read_checkpoint(path: str) -> dict[str, Any]:
    """Load the checkpoint of a search.

    Raises:
        SupernetError: there is no such file, or it is damaged, or no checkpoint of a search.
    """
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.get(CHECKPOINT_KEY), dict):
        raise SupernetError(f"{path} is a checkpoint of something else than a search; pass one that train.py wrote")
    for part in ("hyper_parameters", "datamodule_hyper_parameters"):
        if not isinstance(checkpoint.setdefault(part, {}), dict):
            raise SupernetError(f"{path} is damaged: {part} holds {type(checkpoint[part]).__name__}")
    try:
        json.dumps(checkpoint[CHECKPOINT_KEY])
    except (TypeError, ValueError):
        raise SupernetError(f"{path} is damaged: where its cell comes from is not told in plain values") from None
    for name, value in checkpoint["datamodule_hyper_parameters"].items():
        if type(value) not in _DATA_OPTIONS.get(name, ()):
            raise SupernetError(f"{path} is damaged: option {name!r} of its images is {type(value).__name__}")
    return checkpoint


_DATA_OPTIONS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "root", "_instantiator"), (str,)),
    **dict.fromkeys(("batch_size", "eval_batch_size"), (int,)),
    **dict.fromkeys(("download", "on_device"), (bool,)),
    "image_size": (int, type(None)),
}
"""Options of the images of a search, and their types."""


def search_images(path: str, checkpoint: dict[str, Any], **others: Any) -> SearchData:
    """The images of the search of a checkpoint that `read_checkpoint` has read; ``others`` replace its options.

    Raises:
        SupernetError: the checkpoint does not say which images these are, or there are none such.
    """
    searched = checkpoint["datamodule_hyper_parameters"]
    if "name" not in searched:
        raise SupernetError(f"{path} does not say on which images it searched; it was not written by train.py")
    return SearchData(**{name: value for name, value in searched.items() if not name.startswith("_")} | others)


def build_search(path: str, checkpoint: dict[str, Any]) -> SearchModule:
    """Build the search of a checkpoint that `read_checkpoint` has read, with its parameters.

    Raises:
        SupernetError: its parts do not fit together; a network that its parameters do not fill is never built.
    """
    try:
        _check_network(checkpoint)
        return SearchModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except SupernetError as error:
        raise SupernetError(f"{path}: {error}") from None
    except (ValueError, argparse.ArgumentError, *_DAMAGE) as error:
        raise SupernetError(f"{path} is damaged, or was not written by train.py ({type(error).__name__})") from None


def _check_network(checkpoint: dict[str, Any]) -> None:
    """Hyperparameters are numbers and names, and describe the network whose parameters are there."""
    hparams, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    asked = {name: checkpoint.get(name) for name in ("hparams", "module_arguments", "hparams_type")}
    asked |= {"_class_path": hparams.get("_class_path")}
    instantiator = hparams.get("_instantiator")
    if any(value is not None for value in asked.values()) or instantiator not in (None, _INSTANTIATOR):
        raise SupernetError("it asks for classes that no search needs")
    space, split, derivation = hparams["space"], hparams.get("split"), hparams.get("derivation")
    terms = hparams.get("terms") or []
    classes = [hparams["search"], *terms, *([] if derivation is None else [derivation])]
    if (
        any(set(told) - {"class_path", "init_args"} for told in classes)
        or set(space) != {"num_nodes", "ops"}
        or set(split or ()) - {"epoch", "edge"}
    ):
        raise SupernetError("its search strategy, its terms, its space or its split is not told as train.py does")
    for told in (*classes, space):
        check_named_files(told)
    sizes = {name: hparams[name] for name in ("channels", "num_cells", "num_classes")}
    sizes |= {"image_channels": hparams["image_shape"][0], "partial_channels": hparams.get("partial_channels", 1)}
    with torch.device("meta"):
        network = make_supernet(Split(**split) if split else None, CellSpace(**space), **sizes)
    expected = {f"supernet.{name}": parameter.shape for name, parameter in network.named_parameters()}
    found = {name: value for name, value in state.items() if name.startswith("supernet.")}
    if split:
        del found["supernet._extra_state"]
    if expected != {name: value.shape for name, value in found.items()}:
        raise SupernetError("its parameters are not those of the network that it describes")


_INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"


def recorded_genotype(path: str, checkpoint: dict[str, Any]) -> Genotype:
    """The cell that the search derived last.

    Raises:
        SupernetError: the checkpoint holds none, or something that is none.
    """
    found = checkpoint[CHECKPOINT_KEY].get("genotype")
    if found is None:
        raise SupernetError(f"{path} was saved before a cell was derived; pass --top_k 1 to derive one now")
    if not isinstance(found, str):
        raise SupernetError(f"{path} is damaged: its genotype is {type(found).__name__}")
    return Genotype.parse(found)


def progress(checkpoint: dict[str, Any]) -> tuple[int, str]:
    """How many batches a training has had, and the same in words.

    Raises:
        SupernetError: the checkpoint does not say.
    """
    try:
        loop = _within(checkpoint, "loops", "fit_loop")
        batches, epochs = _within(loop, "epoch_loop.batch_progress"), _within(loop, "epoch_progress", "current")
        total, current = _within(batches, "total")["ready"], _within(batches, "current")["ready"]
        completed, processed, last = epochs["completed"], epochs["processed"], batches["is_last_batch"] is True
    except (KeyError, TypeError):
        raise SupernetError("the checkpoint of this run does not say how far it came; start it anew") from None
    if {type(number) for number in (total, current, completed, processed)} != {int}:
        raise SupernetError("the checkpoint of this run does not say in numbers how far it came; start it anew")
    if current == 0 or completed < processed:
        return total, f"epoch {processed}"
    return total, f"the steps of epoch {processed + 1}" if last else f"step {current} of epoch {processed + 1}"


def _within(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """The dictionary in dictionaries; a TypeError for anything else, as a tensor, which has keys of its own kind."""
    for name in names:
        record = record[name]
        if not isinstance(record, dict):
            raise TypeError
    return record
