"""Box regression losses."""

from .. import functional
from ._module import FunctionalLoss


class BoxLoss(FunctionalLoss):
    """Module form of `fastloss.functional.box_loss`: forward(pred (*, 4) xyxy, target (*, 4) xyxy,
    weight=None, avg_factor=None)."""

    function = staticmethod(functional.box_loss)

    def __init__(
        self,
        kind: str = "giou",
        mode: str = "linear",
        eps: float = 1e-7,
        union_eps: float | None = None,
        smooth_point: float = 0.1,
        neg_gamma: bool = False,
        beta: float = 0.2,
        reduction: str = "mean",
    ):
        super().__init__(
            kind=kind,
            mode=mode,
            eps=eps,
            union_eps=union_eps,
            smooth_point=smooth_point,
            neg_gamma=neg_gamma,
            beta=beta,
            reduction=reduction,
        )


class RegressionLoss(FunctionalLoss):
    """Module form of `fastloss.functional.regression_loss`: forward(pred (*), target (*),
    weight=None, avg_factor=None)."""

    function = staticmethod(functional.regression_loss)

    def __init__(
        self,
        kind: str = "smooth_l1",
        beta: float = 1.0,
        alpha: float = 0.5,
        gamma: float = 1.5,
        reduction: str = "mean",
    ):
        super().__init__(kind=kind, beta=beta, alpha=alpha, gamma=gamma, reduction=reduction)
