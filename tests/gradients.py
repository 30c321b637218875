"""What a batch teaches an adapter, for tests that compare ways of computing it."""

from __future__ import annotations

import torch

from lift.adapters.adapter import Adapter
from lift.packing.trie import Batch
from lift.training.objective import Objective


def loss_and_gradient(objective: Objective, adapter: Adapter, batch: Batch) -> tuple[float, torch.Tensor]:
    loss = objective.loss(batch)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in adapter.parameters() if parameter.grad is not None])
    for parameter in adapter.parameters():
        parameter.grad = None
    return loss.item(), gradient
