"""Reading the checkpoint of a search: nothing in it is executed, and nothing in it is believed."""

from __future__ import annotations

import pickle
from typing import Any

import torch

from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.module import CHECKPOINT_KEY


def load_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint of any training.

    Raises:
        SupernetError: there is no such file, or it is damaged.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SupernetError(f"there is no checkpoint {path}; a search leaves one in its checkpoints folder") from None
    except pickle.UnpicklingError:
        raise SupernetError(f"{path} is no checkpoint: it holds something else than tensors and plain values") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise SupernetError(f"{path} is damaged, or no checkpoint at all ({type(error).__name__})") from None
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
    return checkpoint


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
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["current"]["processed"]
        total, current = int(batches["total"]["ready"]), int(batches["current"]["ready"])
    except (KeyError, TypeError, ValueError):
        raise SupernetError("the checkpoint of this run does not say how far it came; start it anew") from None
    if batches["current"]["ready"] == 0 or loop["epoch_progress"]["current"]["completed"] < epochs:
        return total, f"epoch {epochs}"
    last = batches["is_last_batch"]
    return total, f"the steps of epoch {epochs + 1}" if last else f"step {current} of epoch {epochs + 1}"
