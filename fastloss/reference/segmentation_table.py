r"""The sums over pixels from which every segmentation loss follows.

x (N, C, P) are logits (probabilities if `activation` is "none"), t the target: class indices (N, P)
made one-hot, or dense (N, C, P); p = softmax(x) over C, sigmoid(x), or x. The table (G, S, C) holds
for every group (an image if `per_image`, else the batch), asked statistic and class the sum over
the pixels that are not ignored (t = ignore_index) of

    valid               1
    target              t
    probability         p
    overlap             min(p, t)
    product             p t
    nll                 -t ln p
    neg_log_prob        -ln p
    softmax_focal       t f(-ln p) (-ln p)
    softmax_focal_term  t f(-ln p)
    sigmoid_focal       a f(bce) bce,   bce = t softplus(-x) + (1 - t) softplus(x),
                        a = alpha t + (1 - alpha)(1 - t), or 1 without alpha
    sigmoid_focal_term  f(bce)
    bce_positive        t' softplus(-x),  t' = t + smoothing (1 - 2 t)
    bce_negative        (1 - t') softplus(x)
    predicted           1 for the class of the largest x (its first maximum); dense: p > 1/2
    correct             predicted and t > 1/2

f(b) = m^gamma with m = 1 - exp(-b); with a threshold h it is (m / h)^gamma, and 1 where 1 - m < h.
Columns stand in the order above, those whose bit in `statistics` is 0 left out.

Edge rules: derivatives of min at p = t are 1/2 each (smp writes it as an L1 norm); 0^0 = 1; a pixel
with a NaN logit has no prediction; a class index out of range makes the sums of its group NaN, or
counts as background of every class if not `strict` (see `check` for CPU and debug mode).

Sources: Milletari et al. arXiv 1606.04797 (Dice), Salehi et al. arXiv 1706.05721 (Tversky), Wang et
al. arXiv 2302.05666 (L1 intersection), Lin et al. arXiv 1708.02002 (focal);
segmentation_models_pytorch 0.6.0 `losses/`.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import compute_dtype, gradients

STATISTICS = (
    "valid", "target", "probability", "overlap", "product", "nll", "neg_log_prob", "softmax_focal",
    "softmax_focal_term", "sigmoid_focal", "sigmoid_focal_term", "bce_positive", "bce_negative",
    "predicted", "correct",
)  # fmt: skip
ACTIVATIONS = ("softmax", "sigmoid", "none")


def bits(names: Iterator[str]) -> int:
    """The statistics of these names as the op takes them."""
    return sum(1 << STATISTICS.index(name) for name in set(names))


def columns(statistics: int) -> list[str]:
    """The names of the table's columns."""
    return [name for i, name in enumerate(STATISTICS) if statistics >> i & 1]


def is_index(logits: Tensor, target: Tensor) -> bool:
    """Whether target holds class indices."""
    return target.dim() == logits.dim() - 1


def check_indices(target: Tensor, classes: int, ignore_index: int | None) -> None:
    """Raise IndexError for the first class index out of range; reads the target's values."""
    label = target.long().flatten()
    bad = (label < 0) | (label >= classes)
    if ignore_index is not None:
        bad &= label != ignore_index
    position = bad.nonzero()
    if len(position):
        i = int(position[0])
        raise IndexError(
            f"target must hold class indices in [0, {classes - 1}]; "
            f"got {int(label[i])} at index {i}"
        )


def check(
    logits: Tensor,
    target: Tensor,
    statistics: int,
    activation: str,
    ignore_index: int | None,
    per_image: bool,
    strict: bool,
    *rest: object,
) -> None:
    """`check_indices` for the arguments of the op."""
    if strict and is_index(logits, target):
        check_indices(target, logits.shape[1], ignore_index)


def one_minus_exp(b: Tensor) -> Tensor:
    """1 - exp(-b) without cancellation."""
    return -torch.expm1(-b)


def modulation(b: Tensor, gamma: float, threshold: float | None) -> Tensor:
    """f(b) as defined above."""
    m = one_minus_exp(b)
    if threshold is None:
        return m.pow(gamma)
    return torch.where(1 - m < threshold, 1, (m / threshold).pow(gamma))


def modulation_slope(b: Tensor, gamma: float, threshold: float | None) -> Tensor:
    """Derivative of f, finite where m = 0."""
    if gamma == 0:
        return torch.zeros_like(b)
    m, scale = one_minus_exp(b), 1 if threshold is None else threshold
    power = (m / scale).clamp(min=torch.finfo(m.dtype).tiny).pow(gamma - 1)
    slope = gamma / scale * power * (1 - m)
    return slope if threshold is None else torch.where(1 - m < threshold, 0, slope)


def _lower(a: Tensor, b: Tensor) -> Tensor:
    """Derivative of min(a, b) with respect to a."""
    return (1 - (a - b).sign()) / 2


def _times(t: Tensor, loss: Tensor) -> Tensor:
    """t * loss, and 0 where t = 0 whatever the loss."""
    return torch.where((t == 0) & ~loss.isfinite(), 0, t * loss)


def _valid(target: Tensor, ignore: int | None) -> Tensor:
    return torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore


class _Pixels:
    """What the sums are made of, each (N, C, P) or broadcast to it."""

    def __init__(
        self, logits: Tensor, target: Tensor, activation: str, ignore: int | None, strict: bool
    ):
        x = logits.to(compute_dtype(logits))
        self.index = is_index(logits, target)
        if not target.is_floating_point():
            target = target.long()  # a small integer type could not hold ignore_index
        if self.index:
            label, classes = target[:, None], x.shape[1]  # (N, 1, P)
            self.valid = _valid(label, ignore)
            self.hot = label == torch.arange(classes, device=x.device)[:, None]
            self.t = self.hot.to(x.dtype)
            if strict:
                bad = ((label < 0) | (label >= classes)) & self.valid
                x, self.t = x.masked_fill(bad, torch.nan), self.t.masked_fill(bad, torch.nan)
        else:
            self.valid = _valid(target, ignore)
            self.t = target.to(x.dtype).masked_fill(~self.valid, 0)
        # What does not count must not make torch's own derivative NaN either.
        self.x, self.activation = x.masked_fill(~self.valid, 0), activation
        x = self.x
        if activation == "softmax":
            log_p = x.log_softmax(1)
            self.p, self.minus_log_p = log_p.exp(), -log_p
            # Not t * -ln p: an infinite one of another class would be NaN.
            self.nll = torch.where(self.hot | self.t.isnan(), -log_p, 0)
        else:
            self.p = x.sigmoid() if activation == "sigmoid" else x

    def bce(self) -> tuple[Tensor, Tensor]:
        """t softplus(-x) + (1 - t) softplus(x), and its derivative with respect to x."""
        x, t = self.x, self.t
        b = _times(t, -F.logsigmoid(x)) + _times(1 - t, -F.logsigmoid(-x))
        return b, x.sigmoid() * (1 - t) - (-x).sigmoid() * t

    def predicted(self) -> Tensor:
        if not self.index:
            return self.p > 0.5
        best = self.x.argmax(1, keepdim=True) if self.x.shape[1] else self.x[:, :1]
        hot = best == torch.arange(self.x.shape[1], device=self.x.device)[:, None]
        return hot & ~self.x.isnan().any(1, keepdim=True)


def _balance(t: Tensor, alpha: float | None) -> Tensor | int:
    return 1 if alpha is None else alpha * t + (1 - alpha) * (1 - t)


def forward(
    logits: Tensor,  # (N, C, P)
    target: Tensor,  # (N, P) class indices or (N, C, P) dense
    statistics: int,
    activation: str,
    ignore_index: int | None,
    per_image: bool,
    strict: bool,
    softmax_gamma: float,
    softmax_threshold: float | None,
    alpha: float | None,
    gamma: float,
    threshold: float | None,
    bce_smoothing: float,
) -> Tensor:
    """The table (G, S, C), float64."""
    s = _Pixels(logits, target, activation, ignore_index, strict)

    def value(name: str) -> Tensor:
        if name == "valid":
            return torch.ones_like(s.x)
        if name == "target":
            return s.t
        if name == "probability":
            return s.p
        if name == "overlap":
            return torch.minimum(s.p, s.t)
        if name == "product":
            return s.p * s.t
        if name == "nll":
            return s.nll
        if name == "neg_log_prob":
            return s.minus_log_p
        if name.startswith("softmax_focal"):
            term = modulation(s.nll, softmax_gamma, softmax_threshold)
            return torch.where(s.hot | s.t.isnan(), term * s.nll if name[-1] == "l" else term, 0)
        if name.startswith("sigmoid_focal"):
            b, _ = s.bce()
            term = modulation(b, gamma, threshold)
            return _balance(s.t, alpha) * term * b if name[-1] == "l" else term
        if name.startswith("bce"):
            t = s.t + bce_smoothing * (1 - 2 * s.t)
            if name == "bce_positive":
                return _times(t, -F.logsigmoid(s.x))
            return _times(1 - t, -F.logsigmoid(-s.x))
        predicted = s.predicted()
        return (predicted if name == "predicted" else predicted & (s.t > 0.5)).to(s.x.dtype)

    def total(name: str) -> Tensor:
        sums = torch.where(s.valid, value(name), 0).sum(-1)  # (N, C)
        return (sums if per_image else sums.sum(0, keepdim=True)).double()

    return torch.stack([total(name) for name in columns(statistics)], 1)


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    statistics: int,
    activation: str,
    ignore_index: int | None,
    per_image: bool,
    strict: bool,
    softmax_gamma: float,
    softmax_threshold: float | None,
    alpha: float | None,
    gamma: float,
    threshold: float | None,
    bce_smoothing: float,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits and to a dense floating-point target, from that of the table."""
    s = _Pixels(logits, target, activation, ignore_index, strict)
    x, t, p = s.x, s.t, s.p
    names = columns(statistics)
    g = {name: grad[:, i, :, None].to(x.dtype) for i, name in enumerate(names)}  # (G, C, 1)
    zero = x.new_zeros(())
    g_p = zero.expand_as(x)
    g_t = g.get("target", zero).expand_as(x)
    if "probability" in g:
        g_p = g_p + g["probability"]
    if "overlap" in g:
        g_p, g_t = g_p + g["overlap"] * _lower(p, t), g_t + g["overlap"] * _lower(t, p)
    if "product" in g:
        g_p, g_t = g_p + g["product"] * t, g_t + g["product"] * p
    g_x = zero.expand_as(x)
    if not g.keys().isdisjoint(("probability", "overlap", "product")):
        if activation == "softmax":
            g_x = p * (g_p - (p * g_p).sum(1, keepdim=True))
        else:
            g_x = g_p * (p * (-x).sigmoid()) if activation == "sigmoid" else g_p
    if activation == "softmax":
        factor = zero  # of p - t
        if "nll" in g:
            factor = factor + g["nll"]
        if "softmax_focal" in g or "softmax_focal_term" in g:
            term = modulation(s.nll, softmax_gamma, softmax_threshold)
            slope = modulation_slope(s.nll, softmax_gamma, softmax_threshold)
            # An infinite loss has slope 0.
            product = torch.where(slope == 0, 0, slope * s.nll)
            factor = factor + g.get("softmax_focal", zero) * (product + term)
            factor = factor + g.get("softmax_focal_term", zero) * slope
        if factor is not zero:
            g_x = g_x + torch.where(s.hot | t.isnan(), factor, 0).sum(1, keepdim=True) * (p - t)
        if "neg_log_prob" in g:
            g_x = g_x + p * g["neg_log_prob"].sum(1, keepdim=True) - g["neg_log_prob"]
    if "sigmoid_focal" in g or "sigmoid_focal_term" in g:
        b, b_x = s.bce()
        term, slope = modulation(b, gamma, threshold), modulation_slope(b, gamma, threshold)
        focal, balance = g.get("sigmoid_focal", zero), _balance(t, alpha)
        g_b = focal * balance * (torch.where(slope == 0, 0, slope * b) + term)
        g_b = g_b + g.get("sigmoid_focal_term", zero) * slope
        g_x, g_t = g_x + g_b * b_x, g_t - g_b * x
        if alpha is not None:
            g_t = g_t + focal * (2 * alpha - 1) * term * b
    if "bce_positive" in g or "bce_negative" in g:
        positive, negative = g.get("bce_positive", zero), g.get("bce_negative", zero)
        smooth = t + bce_smoothing * (1 - 2 * t)
        g_x = g_x + negative * (1 - smooth) * x.sigmoid() - positive * smooth * (-x).sigmoid()
        slope = -positive * F.logsigmoid(x) + negative * F.logsigmoid(-x)
        g_t = g_t + (1 - 2 * bce_smoothing) * slope
    floating = not s.index and target.is_floating_point()
    result = gradients(
        needs,
        logits,
        (torch.where(s.valid, g_x, 0), logits.dtype),
        (torch.where(s.valid, g_t, 0) if floating else None, target.dtype),
    )
    if needs & 1:  # in the layout of the logits, as the kernels write it
        result[0] = torch.empty_like(logits).copy_(result[0])
    return result
