"""Several element-wise regression losses of the same two tensors from one read of them."""

from collections.abc import Sequence

from torch import Tensor

from .._library import register
from ..reference import regression_terms as reference
from . import _arguments as check

_terms = register(
    "regression_terms",
    "(Tensor pred, Tensor target, int[] kinds, float[] betas, int[] means, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("pred", "target"),
)


def regression_terms(
    pred: Tensor,
    target: Tensor,
    *,
    kinds: Sequence[str],
    beta: float | Sequence[float] = 1.0,
    reduction: str | Sequence[str] = "mean",
) -> Tensor:
    r"""What `regression_loss` gives for each of `kinds`: one read of the tensors, one gradient.

    Args:
        pred: Any shape, floating point.
        target: The shape of `pred`. Different floating dtypes are promoted to their common one.
        kinds: "l1", "smooth_l1" or "mse", at least one; they may repeat. Formulas:
            `regression_loss`.
        beta: Where smooth L1 turns from square to linear, > 0; one number, or one for each kind.
        reduction: "mean" or "sum"; one, or one for each kind.

    Returns:
        (K,), the losses in the order of `kinds`, in the input's dtype (float32 for half inputs
        under autocast). 0 for empty inputs. Differentiable in pred and target.

    Raises:
        TypeError: an argument is not a floating-point tensor, or not a number.
        ValueError: wrong shape, device, kind or reduction, beta <= 0, no kinds, or another number
            of betas or reductions than of kinds.
    """
    check.floating("pred", pred)
    check.floating("target", target)
    check.tensor_on("target", target, "pred", pred)
    check.same_shape("target", target, "pred", pred)
    if isinstance(kinds, str) or not kinds:
        raise ValueError(f"kinds must be a sequence with at least one kind, got {kinds!r}")
    betas = [beta] * len(kinds) if isinstance(beta, (int, float)) else list(beta)
    reductions = [reduction] * len(kinds) if isinstance(reduction, str) else list(reduction)
    for name, given in (("beta", betas), ("reduction", reductions)):
        if len(given) != len(kinds):
            raise ValueError(
                f"{name} must have one entry for each of kinds, {len(kinds)}, got {given}"
            )
    for i, (kind, how) in enumerate(zip(kinds, reductions)):
        check.choice(f"kinds[{i}]", kind, reference.KINDS)
        check.choice(f"reduction[{i}]", how, ("mean", "sum"))
    betas = [check.at_least(f"beta[{i}]", b, 0, strict=True) for i, b in enumerate(betas)]
    widen = check.under_autocast(pred)
    indices = [reference.KINDS.index(kind) for kind in kinds]
    means = [int(how == "mean") for how in reductions]
    return _terms(*check.promote(pred, target), indices, betas, means, widen)
