"""The workloads of entropic transport between predictions and targets."""

from __future__ import annotations

import math
from types import MappingProxyType

import torch

from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload

# Images, predictions, and columns with the background: the default boxes of SSD300, the queries of
# DETR. 2.3M and 37M costs, 0.2M and 8M.
_SSD = MappingProxyType({"small": (8, 8732, 33), "large": (64, 8732, 65)})
_DETR = MappingProxyType({"small": (8, 300, 101), "large": (256, 300, 101)})


def transports(source: Source, shape: Shape) -> Inputs:
    """Costs in [0, 1] and uotod's masses: of each prediction and of each target the same, what is
    left is the background's. Half of the targets are padding."""
    images, rows, columns = shape
    real = (source.uniform(images, columns - 1) < 0.5).float()
    cost = source.uniform(*shape)
    cost[:, :, :-1] *= real[:, None]
    cost[:, :, -1] = 0.5
    left = rows - real.sum(1, keepdim=True)
    masses = (cost.new_ones(images, rows) / rows, torch.cat((real, left), 1) / rows)
    return Inputs((cost, *masses), differentiable=0)


def _transport(case: str, rounds: int, tau: float | None, reason: str) -> Workload:
    sizes = _SSD if case == "ssd" else _DETR
    reg = 0.12 / (math.log(2 * sizes["small"][1]) + 1)  # uotod's default
    kind = "bal" if tau is None else "unb"
    options = {"reg": reg, "num_iter": rounds, "tau_a": tau, "tau_b": tau}
    return Workload(
        name=f"sinkhorn_{kind}{rounds}.{case}",
        stem="sinkhorn",
        call="sinkhorn",
        options=options,
        make_inputs=transports,
        sizes=sizes,
        reason=reason,
        upstream=(Upstream("uotod", "sinkhorn", options),),
        suite="matching",
        reduces=False,
    )


WORKLOADS = (
    _transport("ssd", 20, None, "balanced transport, uotod's default"),
    _transport("ssd", 70, 1.0, "unbalanced, uotod's default: two powers a round"),
    _transport("detr", 50, None, "few predictions, many targets"),
    _transport("detr", 70, 1.0, "the same, unbalanced"),
)
