"""Train the same network with different losses side by side, and record what the losses cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.memory import peak_bytes
from common import show
from common.measure import Run, clock

Losses = Callable[..., torch.Tensor]  # of the network's outputs and the target


class Trainer:
    """One variant: a network, its optimizer, its losses and what they cost."""

    def __init__(
        self,
        network: Callable[[], nn.Module],
        losses: Losses,
        *,
        seed: int,
        steps: int,
        learning_rate: float,
        device: torch.device,
    ) -> None:
        torch.manual_seed(seed)
        self.losses, self.device, self.run = losses, device, Run()
        self.model = network().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, learning_rate, total_steps=steps, pct_start=0.2
        )

    def step(self, images: torch.Tensor, target: Any) -> None:
        """The graph is cut at the network's outputs, so that the losses are timed alone."""
        with clock(self.run.step_ms, self.device):
            outputs = self.model(images)
            leaves = [output.detach().requires_grad_() for output in outputs]
            with clock(self.run.loss_ms, self.device):
                loss = self.losses(*leaves, target)
                loss.backward()
            self.optimizer.zero_grad()
            torch.autograd.backward(outputs, [leaf.grad for leaf in leaves])
            self.optimizer.step()
            self.schedule.step()
        self.run.losses.append(loss.detach())

    def measure_memory(self, images: torch.Tensor, target: Any) -> None:
        with torch.no_grad():
            outputs = self.model(images)
        leaves = [output.requires_grad_() for output in outputs]
        self.run.loss_bytes = peak_bytes(
            lambda: self.losses(*leaves, target).backward(), self.device
        )


def train_in_turn(
    trainers: Mapping[str, Trainer],
    batches: Sequence[tuple[torch.Tensor, Any]],
    title: str,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """All variants step by step in turn, so that a slow moment of the machine hits each of them;
    `after_step` is called with the number of steps done."""
    with show.progress(title, len(batches)) as advance:
        for step, (images, target) in enumerate(batches, 1):
            for trainer in trainers.values():
                trainer.step(images, target)
            after_step(step)
            advance("loss " + " | ".join(f"{t.run.losses[-1]:.4f}" for t in trainers.values()))
    for trainer in trainers.values():
        trainer.measure_memory(*batches[-1])
