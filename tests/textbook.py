"""The textbook mixed cell: every operation of every edge by itself. The oracle of the fused cell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.mixed import MixedCell
from supernet.network import Supernet
from supernet.ops import CONVOLUTIONS
from supernet.space import CellSpace


def textbook_op(op: str, inputs: Tensor, kernel: Tensor | None) -> Tensor:
    if op == "none":
        return torch.zeros_like(inputs)
    if op == "skip_connect":
        return inputs
    if op == "avg_pool_3x3":
        # The mean over the neighbours inside the image: a box sum over a box count.
        box = torch.ones(inputs.shape[1], 1, 3, 3).to(inputs)
        total = F.conv2d(inputs, box, padding=1, groups=inputs.shape[1])
        return total / F.conv2d(torch.ones_like(inputs), box, padding=1, groups=inputs.shape[1])
    if op == "max_pool_3x3":
        windows = F.unfold(F.pad(inputs, (1, 1, 1, 1), value=-torch.inf), 3)
        return windows.view(*inputs.shape[:2], 9, *inputs.shape[2:]).amax(dim=2)
    assert kernel is not None
    outputs = F.conv2d(inputs.clamp_min(0), kernel, padding=CONVOLUTIONS[op] // 2)
    mean = outputs.mean(dim=(0, 2, 3), keepdim=True)
    variance = outputs.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    return (outputs - mean) / (variance + 1e-5).sqrt()


def textbook_cell(cell: MixedCell, space: CellSpace, inputs: Tensor, mixture: Tensor) -> Tensor:
    nodes = [inputs]
    for target in range(1, space.num_nodes):
        node = torch.zeros_like(inputs)
        for source in range(target):
            row = mixture[space.edges.index((target, source))]
            for coefficient, op in zip(row, space.ops, strict=True):
                kernel = cell.edge_weight(op, target, source) if op in CONVOLUTIONS else None
                node = node + coefficient * textbook_op(op, nodes[source], kernel)
        nodes.append(node)
    return nodes[-1]


def textbook_supernet(supernet: Supernet, images: Tensor, mixture: Tensor) -> Tensor:
    features = supernet.stem(images)
    for block in supernet.blocks:
        if isinstance(block, MixedCell):
            features = textbook_cell(block, supernet.space, features, mixture)
        else:
            features = block(features)
    logits: Tensor = supernet.head(features)
    return logits
