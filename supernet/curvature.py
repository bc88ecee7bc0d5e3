"""How sharp the validation loss is around the architecture: it grows before a DARTS collapses (Zela et al., 2020)."""

from __future__ import annotations

import torch

from supernet.strategies import Batch, FactorisedSearch, Loss
from supernet.strategies.base import gradient


def dominant_eigenvalue(search: FactorisedSearch, loss: Loss, batch: Batch) -> float:
    """The eigenvalue, largest in magnitude, of the Hessian of the loss by the logits; NaN if it is not finite.

    The Hessian is small, E * O rows, so it is computed whole, row by row of products with it: Lanczos' method would
    want about as many. A strategy that draws its mixture does so once, and its generator is put back.

    Args:
        search: the strategy, whose logits are as they are now.
        loss: of the supernet.
        batch: images and labels of the half that trains the architecture.
    """
    drawn = search.generator.get_state()
    mixture = search()
    search.generator.set_state(drawn)
    # With parameters that are handed in, nothing is replayed: a recording knows its first gradient only.
    parameters = {name: value.detach() for name, value in loss.parameters().items()}
    logits = {"logits": search.logits}
    (slope,) = gradient(loss(mixture, batch, parameters=parameters), logits, create_graph=True).values()
    hessian = torch.stack([gradient(entry, logits)["logits"].flatten() for entry in slope.flatten()]).double().cpu()
    if not hessian.isfinite().all():
        return float("nan")
    eigenvalues = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    return float(max(eigenvalues, key=abs))
