from __future__ import annotations

import torch

# The tensors of the tests are too small to share among threads, and one thread adds in one order.
torch.set_num_threads(1)
