"""What a measured figure depends on besides its seed."""

from __future__ import annotations

import platform

import pytorch_lightning
import torch
import torchvision

import supernet


def versions() -> dict[str, str]:
    """Versions of the software, and the hardware."""
    return {
        "supernet": supernet.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "pytorch_lightning": pytorch_lightning.__version__,
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {platform.machine()}",
    }
