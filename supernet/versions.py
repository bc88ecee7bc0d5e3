"""What a measured figure depends on besides its seed."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

import supernet


def versions(device: torch.device) -> dict[str, str]:
    """Versions of the software, and the hardware behind the device that was used."""
    return {
        "supernet": supernet.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "pytorch_lightning": version("pytorch_lightning"),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}",
    }
