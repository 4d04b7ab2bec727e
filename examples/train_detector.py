"""Train a small detector on a real microscopy picture, with plain PyTorch losses and with fastloss.

Both variants start from the same weights and see the same batches in the same order, so their loss
curves coincide up to rounding; what differs is what the loss costs. Run from the repository root:

    python examples/train_detector.py

Every cell of the network's grid has a target of its own; with `--loss uotod-hungarian` or
`--loss uotod-sinkhorn` the cells of an image are matched with its objects instead, in each step.
"""

from __future__ import annotations

import sys

import torch
from common import curves, options, report
from common.download import DataError
from common.measure import Run
from common.picture import SOURCE
from common.training import Losses, Trainer, train_in_turn
from detector import draw, matched, plain_losses
from detector.data import STRIDE, Picture, Targets, batches, load, of_cells, of_images
from detector.evaluate import detect
from detector.model import Detector

from fastloss import functional as fused

BATCH = 16  # crops of 128 × 128 pixels: 16,384 cells per step
LEARNING_RATE = 1.5e-3
L1_WEIGHT = 0.125  # the coordinate distance is in pixels, GIoU lies in 0..2
CELLS = "cells"
MATCHED = {"uotod-hungarian": "hungarian", "uotod-sinkhorn": "sinkhorn"}
# The losses of this example under their names in the benchmark.
WORKLOADS = {
    CELLS: ("sigmoid_focal.index", "aligned_giou", "elem_smooth_l1"),
    "uotod-hungarian": ("uotod_detloss.hungarian",),
    "uotod-sinkhorn": ("uotod_detloss.unbalanced",),
}


def with_plain_pytorch(logits: torch.Tensor, boxes: torch.Tensor, target: Targets) -> torch.Tensor:
    """One-hot targets, elementwise tensors, weights, sums: as most code bases write it."""
    score = plain_losses.sigmoid_focal_loss(logits, target.labels)  # (N, 1)
    overlap = plain_losses.giou_loss(boxes, target.boxes) * target.weights  # (N,)
    distance = plain_losses.smooth_l1_loss(boxes, target.boxes, beta=STRIDE)  # (N, 4)
    distance = distance * target.weights[:, None]
    return (score.sum() + overlap.sum() + L1_WEIGHT * distance.sum()) / target.count


def with_fastloss(logits: torch.Tensor, boxes: torch.Tensor, target: Targets) -> torch.Tensor:
    """The same three losses; weights and the sum over cells are part of each call."""
    whole = {"reduction": "mean", "avg_factor": target.count}
    score = fused.sigmoid_focal_loss(logits, target.labels, **whole)
    overlap = fused.box_loss(boxes, target.boxes, kind="giou", weight=target.weights, **whole)
    distance = fused.regression_loss(
        boxes, target.boxes, beta=STRIDE, weight=target.weights[:, None], **whole
    )
    return score + overlap + L1_WEIGHT * distance


def variants(loss: str) -> dict[str, Losses]:
    """The two ways to compute the losses of that name."""
    if loss == CELLS:
        return {"plain PyTorch": with_plain_pytorch, "fastloss": with_fastloss}
    return {"plain PyTorch": matched.Plain(MATCHED[loss]), "fastloss": matched.Fused(MATCHED[loss])}


def train(
    seed: int,
    steps: int,
    picture: tuple[Picture, Picture],
    device: torch.device,
    loss: str = CELLS,
    moments: matched.Moments | None = None,
) -> dict[str, Run]:
    """`moments` records matchings as training goes on."""
    train_part, held_out = picture
    targets = of_cells if loss == CELLS else of_images
    data = batches(train_part, steps, BATCH, seed, device, targets)
    settings = {"seed": seed, "steps": steps, "learning_rate": LEARNING_RATE, "device": device}
    trainers = {
        name: Trainer(Detector, losses, **settings) for name, losses in variants(loss).items()
    }

    def after_step(step: int) -> None:
        if moments is not None:
            moments.record(step, trainers, *data[-1])

    train_in_turn(trainers, data, f"seed {seed}", after_step)
    for trainer in trainers.values():
        trainer.run.result = detect(trainer.model, held_out.image, held_out.boxes)
    return {name: trainer.run for name, trainer in trainers.items()}


def main(arguments: list[str] | None = None) -> int:
    chosen = options.parse(arguments, __doc__.splitlines()[0], steps=90, losses=(CELLS, *MATCHED))
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    try:
        picture = load(chosen.data)
    except DataError as reason:
        print(f"train_detector: {reason}", file=sys.stderr)
        return 1
    print(SOURCE)
    print(
        f"{len(picture[0].boxes)} labelled nuclei to train on, {len(picture[1].boxes)} held out; "
        f"batches of {BATCH} crops; {device.type}, {torch.get_num_threads()} CPU threads."
    )
    report.kernels(device)

    moments = None if chosen.loss == CELLS else matched.Moments((1, chosen.steps))
    runs: dict[str, list[Run]] = {name: [] for name in variants(chosen.loss)}
    for seed in range(chosen.seeds):
        drawn = moments if seed == 0 else None
        for name, run in train(seed, chosen.steps, picture, device, chosen.loss, drawn).items():
            runs[name].append(run)
    report.training("Training", runs, {"held-out F1@0.5": lambda run: run.result.f1})

    chosen.output.mkdir(parents=True, exist_ok=True)
    suffix = "" if chosen.loss == CELLS else f"-{chosen.loss}"
    pictures = [chosen.output / f"{name}{suffix}.png" for name in ("predictions", "losses")]
    draw.predictions(pictures[0], *picture, {n: r[0].result for n, r in runs.items()})
    curves.draw(pictures[1], {"Detection losses": runs})
    if moments is not None:
        pictures.append(chosen.output / f"matching{suffix}.png")
        draw.matchings(pictures[-1], moments)
    if not chosen.no_bench:
        report.large_batch(WORKLOADS[chosen.loss], device)
    print("Pictures:", *pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
