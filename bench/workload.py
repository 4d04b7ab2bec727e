"""What a workload is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.inputs import Inputs, Shape, Source

Function = Callable[..., Any]  # to a tensor, or to a tuple that begins with the one that counts


@dataclass(frozen=True)
class Upstream:
    """A loss class of another library, or of a module of fastloss, built with these options, or a
    function called with them."""

    library: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    adds_up: bool = False  # it returns several losses, whose sum counts


@dataclass(frozen=True)
class Peer:
    """The best other kernel for a workload. `make` returns a function with the baseline's signature
    and raises ImportError where the peer is not installed."""

    name: str
    make: Callable[[], Function]


@dataclass(frozen=True)
class Workload:
    """`call` names the function in `bench.baselines.<stem>` and in `fastloss.functional`; both take
    `options`. None: the upstream class is the plain version."""

    name: str
    stem: str
    call: str | None
    options: Mapping[str, Any]
    make_inputs: Callable[[Source, Shape], Inputs]
    sizes: Mapping[str, Shape]
    reason: str
    upstream: tuple[Upstream, ...] = ()  # the sum of these is the same
    peers: tuple[Peer, ...] = ()
    # What fastloss runs, where that is not one function of `fastloss.functional`.
    ours: Function | Upstream | None = None
    suite: str = "losses"
    reduces: bool = True  # has an option `reduction`, which the baselines lack: theirs is "mean"
    # How often what gradients are taken for has to be read: twice where the gradient of one element
    # depends on sums over all of them.
    reads: int = 1
    # Bound on an opponent's relative error against float64; fastloss is held to its own, stricter
    # table. Eager float32 mostly errs by 1e-7, torch.compile with its vectorised exp and log by
    # 1e-5, which must not cost it its place as the fastest baseline.
    tolerance: float = 1e-4
    # The same for fastloss, where the table cannot hold: it promises an approximation, or float32
    # sees ties, or another order, where float64 does not.
    own_tolerance: float | None = None
    group: str | None = None  # fastloss alone, timed in the same rounds as the others of the group
