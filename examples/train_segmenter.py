"""Train a small U-Net to tell nuclei apart, with plain PyTorch losses and with fastloss.

Two sets of losses, each written twice. All four networks start from the same weights and see the
same batches in the same order, so that the loss curves of a set coincide up to rounding; what
differs is what the loss costs. Run from the repository root:

    python examples/train_segmenter.py
"""

from __future__ import annotations

import sys

import torch
from common import curves, options, report
from common.download import DataError
from common.measure import Run
from common.picture import SOURCE
from common.training import Losses, Trainer, train_in_turn
from segmenter import draw, plain_losses
from segmenter.data import CLASSES, SIDE, Labelled, batches, load
from segmenter.evaluate import segment
from segmenter.inside import Curve, Hard, hard_square, jaccard_curves
from segmenter.model import UNet

from fastloss import functional as fused

BATCH = 4  # crops of 64 × 64 pixels
LEARNING_RATE = 4e-3
WEIGHTS = {"cross_entropy": 1.0, "dice": 1.0, "lovasz": 0.5, "boundary": 0.3}
WINDOWS = {"theta0": 3, "theta": 5}  # of the boundary loss, in pixels
LEAST = 1 / 8  # share of the pixels that OHEM keeps at least
HARD = {"thresh": 0.7, "min_kept": int(LEAST * BATCH * SIDE * SIDE)}
DICE = {"weight": WEIGHTS["dice"], "smooth": 0.5}  # smooth in both halves of plain_losses' fraction
WORKLOADS = ("lovasz_softmax", "boundary.3_5", "ohem_gdl.0.7")  # names in the benchmark


def plain_four(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A softmax per loss, a sort per class, four poolings: as most code bases write it."""
    return (
        WEIGHTS["cross_entropy"] * torch.nn.functional.cross_entropy(logits, target)
        + WEIGHTS["dice"] * plain_losses.dice_loss(logits, target)
        + WEIGHTS["lovasz"] * plain_losses.lovasz_softmax(logits, target)
        + WEIGHTS["boundary"] * plain_losses.boundary_loss(logits, target, **WINDOWS)
    )


def fused_four(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The same: cross entropy and Dice in one reading of the logits."""
    terms = {"cross_entropy": WEIGHTS["cross_entropy"], "dice": DICE, "lovasz": WEIGHTS["lovasz"]}
    total, _ = fused.segmentation_loss(logits, target, terms=terms)
    return total + WEIGHTS["boundary"] * fused.boundary_loss(logits, target, **WINDOWS)


def plain_hard(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    hard = plain_losses.ohem_cross_entropy(logits, target, **HARD)
    return hard + WEIGHTS["dice"] * plain_losses.dice_loss(logits, target)


def fused_hard(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    dice, _ = fused.segmentation_loss(logits, target, terms={"dice": DICE})
    return dice + fused.ohem_cross_entropy(logits, target, **HARD)


FOUR, OHEM = "Cross entropy + Dice + Lovász + boundary", "OHEM cross entropy + Dice"
VARIANTS: dict[str, dict[str, Losses]] = {
    FOUR: {"plain PyTorch": plain_four, "fastloss": fused_four},
    OHEM: {"plain PyTorch": plain_hard, "fastloss": fused_hard},
}
SCORES = {
    "held-out Dice": lambda run: run.result.dice,
    "held-out border F1": lambda run: run.result.boundary_f1,
}


class Inside:
    """What the two special losses see in the batches and the held-out part, as training goes on."""

    def __init__(self, steps: int) -> None:
        self.moments = {max(1, steps // 16), max(1, steps // 3), steps}
        self.hard: dict[int, Hard] = {}
        self.curves: dict[int, list[Curve]] = {}


def train(
    seed: int,
    steps: int,
    picture: tuple[Labelled, Labelled],
    device: torch.device,
    inside: Inside,
) -> dict[str, dict[str, Run]]:
    """All variants with one seed; the first seed is looked into."""
    train_part, held_out = picture
    data = batches(train_part, steps, BATCH, seed, device)
    settings = {"seed": seed, "steps": steps, "learning_rate": LEARNING_RATE, "device": device}
    trainers = {
        (group, name): Trainer(UNet, losses, **settings)
        for group, variants in VARIANTS.items()
        for name, losses in variants.items()
    }

    def look(step: int) -> None:
        if seed == 0 and step in inside.moments:
            hard, four = (trainers[group, "fastloss"].model for group in (OHEM, FOUR))
            inside.hard[step] = hard_square(hard, *data[-1], **HARD)
            inside.curves[step] = jaccard_curves(four, held_out)

    train_in_turn(trainers, data, f"seed {seed}", after_step=look)
    runs: dict[str, dict[str, Run]] = {group: {} for group in VARIANTS}
    for (group, name), trainer in trainers.items():
        trainer.run.result = segment(trainer.model, *held_out)
        runs[group][name] = trainer.run
    return runs


def main(arguments: list[str] | None = None) -> int:
    chosen = options.parse(arguments, __doc__.splitlines()[0], steps=200)
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    try:
        picture = load(chosen.data)
    except DataError as reason:
        print(f"train_segmenter: {reason}", file=sys.stderr)
        return 1
    print(SOURCE)
    print(
        f"Classes {', '.join(CLASSES)}; batches of {BATCH} crops; {device.type}, "
        f"{torch.get_num_threads()} CPU threads."
    )
    report.kernels(device)

    inside = Inside(chosen.steps)
    runs = {group: {name: [] for name in variants} for group, variants in VARIANTS.items()}
    for seed in range(chosen.seeds):
        for group, variants in train(seed, chosen.steps, picture, device, inside).items():
            for name, run in variants.items():
                runs[group][name].append(run)
    for group, variants in runs.items():
        report.training(group, variants, SCORES)

    chosen.output.mkdir(parents=True, exist_ok=True)
    names = ("segmentation.png", "segmentation_losses.png", "lovasz_and_ohem.png")
    pictures = [chosen.output / name for name in names]
    answers = {
        group: {name: done[0].result for name, done in variants.items()}
        for group, variants in runs.items()
    }
    draw.predictions(pictures[0], picture[1], answers)
    curves.draw(pictures[1], runs)
    draw.inside(pictures[2], inside.hard, inside.curves, HARD["thresh"], LEAST)
    if not chosen.no_bench:
        report.large_batch(WORKLOADS, device)
    print("Pictures:", *pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
