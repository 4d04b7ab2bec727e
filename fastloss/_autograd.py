"""The autograd.Functions around the ops of a loss.

Three of them, for the three ways a loss is used:

- `OnePass`, in eager training with a reduced float32 or float64 loss and a gradient for the first
  tensor alone: the forward computes the gradient too, while the input is in the cache, and the
  backward hands it out (scaled in place, free for a factor of 1). Its buffer is what the backward
  would have allocated. It is handed out once; a second backward over a retained graph computes it
  again.
- `Loss`, everywhere else: the inputs are saved and the backward op reads them again. Half precision
  is here because a stored gradient that already contains 1/n would underflow.
- `TransformedLoss`, under torch.func.grad, vmap, jacrev: the form with setup_context and a vmap
  rule.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def differentiable_loss(
    name: str, count: int, positions: Sequence[int], reduction: int | None
) -> Callable[..., Tensor]:
    """The function that calls the ops of `name` under autograd. Their first `count` arguments are
    tensors, those at `positions` differentiable; argument `reduction` is the reduction, if the op
    has one."""
    forward_op = getattr(torch.ops.fastloss, name).default
    backward_op = getattr(torch.ops.fastloss, f"{name}_backward").default
    if reduction is not None:
        one_pass_op = getattr(torch.ops.fastloss, f"{name}_with_gradient").default
    scale = torch.ops.fastloss.scale_.default

    class Gradient(torch.autograd.Function):
        """The backward op, for callers that keep its graph; differentiating it again raises."""

        @staticmethod
        def forward(*args: Any) -> Any:
            return backward_op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise RuntimeError(
                f"fastloss.{name} has no second derivative: its backward is a fused kernel. "
                'Use `with fastloss.backend("reference"):`, which computes it.'
            )

    def propagate(ctx: Any, grad: Tensor) -> Any:
        needed = ctx.needs_input_grad
        needs = sum(1 << i for i, position in enumerate(positions) if needed[position])
        run = Gradient.apply if torch.is_grad_enabled() else backward_op
        results = run(grad, *ctx.saved_tensors, *ctx.parameters, needs)
        results = (results,) if isinstance(results, Tensor) else results
        grads: list[Tensor | None] = [None] * len(needed)
        for i, position in enumerate(positions):
            if needs >> i & 1:
                grads[position] = results[i]
        return tuple(grads)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            ctx.save_for_backward(*args[:count])
            ctx.parameters = args[count:]
            return forward_op(*args)

        backward = staticmethod(propagate)

    class OnePass(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            ctx.save_for_backward(*args[:count])
            ctx.parameters = args[count:]
            loss, ctx.gradient = one_pass_op(*args)
            return loss

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            if ctx.gradient is None or torch.is_grad_enabled():
                return propagate(ctx, grad)
            gradient, ctx.gradient = ctx.gradient, None
            scale(gradient, grad)
            return gradient, *(None,) * (len(ctx.needs_input_grad) - 1)

    class TransformedLoss(torch.autograd.Function):
        """Binding arguments by name makes this form 15 us slower than `Loss`."""

        @staticmethod
        def forward(*args: Any) -> Tensor:
            return forward_op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs[:count])
            ctx.parameters = inputs[count:]

        backward = staticmethod(propagate)

    Gradient.vmap = staticmethod(_one_call_per_sample(Gradient))
    TransformedLoss.vmap = staticmethod(_one_call_per_sample(TransformedLoss))

    def loss(*args: Any) -> Tensor:
        if torch._C._are_functorch_transforms_active():
            return TransformedLoss.apply(*args)
        if not torch.is_grad_enabled():
            return forward_op(*args)
        wanted = [i for i in positions if args[i] is not None and args[i].requires_grad]
        if not wanted:
            return forward_op(*args)
        one_pass = (
            wanted == [0]
            and reduction is not None
            and args[reduction] != "none"
            and args[0].dtype in (torch.float32, torch.float64)
            and not torch.compiler.is_compiling()
        )
        return (OnePass if one_pass else Loss).apply(*args)

    return loss


def _one_call_per_sample(function: Any) -> Any:
    """A vmap rule: the losses have no batch of problems inside, so each sample is a call."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        def sample(i: int) -> Any:
            # The dims of a list of numbers are a list.
            picked = (a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims))
            return function.apply(*picked)

        results = [sample(i) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])

    return rule
