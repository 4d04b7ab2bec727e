"""Inputs of matched_detection, and runs of it with each implementation."""

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss.testing import implementation
from fastloss.testing.samples.matched_detection import problem

languages = pytest.mark.parametrize("language", ("C++", "reference", "triton"))
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of Triton's interpreter


def using(language):
    """The context in which the ops run with that implementation."""
    if language == "C++":
        return fastloss.backend("auto")
    if language == "triton" and torch.cuda.is_available():
        pytest.skip("kernels would be launched on CPU tensors")
    return implementation(language)


def inputs(seed=0, dtype=torch.float32, shape=(3, 5, 9, 7)):
    made = problem(torch.Generator().manual_seed(seed), *shape)
    return {k: x.to(dtype) if x.is_floating_point() else x for k, x in made.items()}


def run(given, incoming=1.0, **options):
    """Loss and gradients of each prediction, for incoming gradients (B, N) or a number."""
    wanted = [given[name].detach().clone().requires_grad_() for name in ("logits", "boxes")]
    given = {**given, "logits": wanted[0], "boxes": wanted[1]}
    loss = F.matched_detection(**given, reduction="none", **options)
    return loss.detach(), *torch.autograd.grad((incoming * loss).sum(), wanted)


def same(results, expected):
    return all(torch.equal(x, y) for x, y in zip(results, expected, strict=True))
