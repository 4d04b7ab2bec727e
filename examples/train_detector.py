"""Train a small detector on a real microscopy picture, with plain PyTorch losses and with fastloss.

Both variants start from the same weights and see the same batches in the same order, so their loss
curves coincide up to rounding; what differs is what the loss costs. Run from the repository root:

    python examples/train_detector.py
"""

from __future__ import annotations

import sys

import torch
from common import curves, options, report
from common.download import DataError
from common.measure import Run
from common.picture import SOURCE
from common.training import Losses, Trainer, train_in_turn
from detector import draw, plain_losses
from detector.data import STRIDE, Picture, Targets, batches, load
from detector.evaluate import detect
from detector.model import Detector

from fastloss import functional as fused

BATCH = 16  # crops of 128 × 128 pixels: 16,384 cells per step
LEARNING_RATE = 1.5e-3
L1_WEIGHT = 0.125  # the coordinate distance is in pixels, GIoU lies in 0..2
# The losses of this example under their names in the benchmark.
WORKLOADS = ("sigmoid_focal.index", "aligned_giou", "elem_smooth_l1")


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


VARIANTS: dict[str, Losses] = {"plain PyTorch": with_plain_pytorch, "fastloss": with_fastloss}


def train(
    seed: int, steps: int, picture: tuple[Picture, Picture], device: torch.device
) -> dict[str, Run]:
    train_part, held_out = picture
    data = batches(train_part, steps, BATCH, seed, device)
    settings = {"seed": seed, "steps": steps, "learning_rate": LEARNING_RATE, "device": device}
    trainers = {name: Trainer(Detector, losses, **settings) for name, losses in VARIANTS.items()}
    train_in_turn(trainers, data, f"seed {seed}")
    for trainer in trainers.values():
        trainer.run.result = detect(trainer.model, held_out.image, held_out.boxes)
    return {name: trainer.run for name, trainer in trainers.items()}


def main(arguments: list[str] | None = None) -> int:
    chosen = options.parse(arguments, __doc__.splitlines()[0], steps=90)
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

    runs: dict[str, list[Run]] = {name: [] for name in VARIANTS}
    for seed in range(chosen.seeds):
        for name, run in train(seed, chosen.steps, picture, device).items():
            runs[name].append(run)
    report.training("Training", runs, {"held-out F1@0.5": lambda run: run.result.f1})

    chosen.output.mkdir(parents=True, exist_ok=True)
    pictures = chosen.output / "predictions.png", chosen.output / "losses.png"
    draw.predictions(pictures[0], *picture, {n: r[0].result for n, r in runs.items()})
    curves.draw(pictures[1], {"Detection losses": runs})
    if not chosen.no_bench:
        report.large_batch(WORKLOADS, device)
    print("Pictures:", *pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
