"""ImageNet16-120 from its published pickles, read without executing anything from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from supernet.data.image_set import ImageSet
from supernet.errors import SupernetError
from supernet.files import read_regular
from supernet.pickles import Request, read_pickle

_MAX_BYTES, _MAX_STEPS = 2**28, 400_000
"""Of one file; those that were published have up to 100 MB, and an instruction for each of 128,118 labels."""

_ARRAYS = {
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode"),
}
"""What a pickled array asks for. Not even numpy runs: handed a hostile state, it can crash the interpreter."""


def _bytes_array(array: Request) -> NDArray[np.uint8]:
    """The array of bytes that was pickled, flat."""
    _, _, dtype, _, raw = array.state
    if dtype.args[0] not in ("u1", "|u1"):
        raise ValueError(f"its array holds {dtype.args[0]!s:.20}, not bytes")
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype=np.uint8)


def load_imagenet16(root: Path, download: bool) -> tuple[ImageSet, ImageSet]:
    """The first 120 classes of ImageNet at 16 x 16 pixels, from its published pickles."""
    folder = root / "ImageNet16" if (root / "ImageNet16").is_dir() else root
    train = [load_part(folder / f"train_data_batch_{part}") for part in range(1, 11)]
    joined = ImageSet(torch.cat([part.images for part in train]), torch.cat([part.labels for part in train]))
    return joined, load_part(folder / "val_data")


def load_part(path: Path) -> ImageSet:
    """The images of classes 1 to 120 in one of the published files, classes renumbered from 0.

    Raises:
        SupernetError: the file is missing, or is not what was published.
    """
    try:
        record = read_pickle(read_regular(path, _MAX_BYTES), _ARRAYS, _MAX_STEPS)
        data = _bytes_array(record["data"]).reshape(-1, 3, 16, 16)
        labels = list(record["labels"])
        if len(labels) != len(data) or any(type(label) is not int or not 1 <= label <= 1000 for label in labels):
            raise ValueError(f"its {len(data)} images should have as many labels from 1 to 1000")
    except FileNotFoundError:
        raise SupernetError(
            f"{path} is missing; ImageNet16-120 is read from the files train_data_batch_1 to 10 and val_data as"
            " published, and cannot be downloaded from here: pass --data.root with the folder that holds them"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SupernetError(f"{path} is no part of ImageNet16 as published ({error}); fetch it again") from None
    classes = torch.tensor(labels, dtype=torch.long)
    kept = classes <= 120
    return ImageSet(torch.from_numpy(data.copy())[kept], classes[kept] - 1)
