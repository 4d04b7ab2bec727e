"""Train a small detector on a real microscopy picture, with plain PyTorch losses and with fastloss.

Both variants start from the same weights and see the same batches in the same order, so their loss
curves coincide up to rounding; what differs is what the loss costs. Run from the repository root:

    python examples/train_detector.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `bench` is part of the repository, not of the installed package

from detector import draw, plain_losses, report, show  # noqa: E402
from detector.data import STRIDE, Picture, Targets, batches, load  # noqa: E402
from detector.download import DataError  # noqa: E402
from detector.evaluate import detect  # noqa: E402
from detector.measure import Run, clock  # noqa: E402
from detector.model import Detector  # noqa: E402

from bench.memory import peak_bytes  # noqa: E402
from fastloss import functional as fused  # noqa: E402

BATCH = 16  # crops of 128 × 128 pixels: 16,384 cells per step
LEARNING_RATE = 1.5e-3
L1_WEIGHT = 0.125  # the coordinate distance is in pixels, GIoU lies in 0..2

Losses = Callable[[torch.Tensor, torch.Tensor, Targets], torch.Tensor]


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


class Trainer:
    """One variant: a network, its optimizer, its losses and what they cost."""

    def __init__(self, losses: Losses, seed: int, steps: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.losses, self.device, self.run = losses, device, Run()
        self.model: nn.Module = Detector().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2
        )

    def step(self, images: torch.Tensor, target: Targets) -> None:
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

    def measure_memory(self, images: torch.Tensor, target: Targets) -> None:
        with torch.no_grad():
            outputs = self.model(images)
        leaves = [output.requires_grad_() for output in outputs]
        self.run.loss_bytes = peak_bytes(
            lambda: self.losses(*leaves, target).backward(), self.device
        )


def train(
    seed: int, steps: int, picture: tuple[Picture, Picture], device: torch.device
) -> dict[str, Run]:
    """Both variants step by step in turn, so that a slow moment of the machine hits both."""
    train_part, held_out = picture
    data = batches(train_part, steps, BATCH, seed, device)
    trainers = {name: Trainer(losses, seed, steps, device) for name, losses in VARIANTS.items()}
    with show.progress(f"seed {seed}", steps) as advance:
        for images, target in data:
            for trainer in trainers.values():
                trainer.step(images, target)
            advance("loss " + " | ".join(f"{t.run.losses[-1]:.4f}" for t in trainers.values()))
    for trainer in trainers.values():
        trainer.measure_memory(*data[-1])
        trainer.run.detections = detect(trainer.model, held_out.image, held_out.boxes)
    return {name: trainer.run for name, trainer in trainers.items()}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    try:
        picture = load(options.data)
    except DataError as reason:
        print(f"train_detector: {reason}", file=sys.stderr)
        return 1
    report.introduction(picture, BATCH, device)

    runs: dict[str, list[Run]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for name, run in train(seed, options.steps, picture, device).items():
            runs[name].append(run)
    report.training(runs)

    options.output.mkdir(parents=True, exist_ok=True)
    pictures = options.output / "predictions.png", options.output / "losses.png"
    draw.predictions(pictures[0], *picture, {n: r[0].detections for n, r in runs.items()})
    draw.curves(pictures[1], runs)
    if not options.no_bench:
        report.large_batch(device)
    print("Pictures:", *pictures)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent
    parser.add_argument("--seeds", type=_positive, default=3, help="runs of each variant (3)")
    parser.add_argument("--steps", type=_positive, default=90, help="steps of each run (90)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    # One thread, as the benchmark: with more, other programs on the machine disturb the times.
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads of torch (1)")
    parser.add_argument("--output", type=Path, default=here / "output", help="for the pictures")
    parser.add_argument(
        "--data",
        type=Path,
        default=here / "data",
        help="folder of img2d.tif and mask2d.tif; fetched if they are not there",
    )
    parser.add_argument("--no-bench", action="store_true", help="leave out the large-batch table")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no CUDA GPU")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
