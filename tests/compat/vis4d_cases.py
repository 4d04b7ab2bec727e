"""What the tests of fastloss.compat.vis4d share: vis4d itself, ours beside it, and reducers."""

import pytest
import references
import torch

from fastloss.compat import vis4d as ours

upstream = references.or_skip(references.vis4d)
LIBRARIES = (ours, upstream)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
REDUCERS = ("identity_loss", "mean_loss", "sum_loss", "weighted", "other")


def reducer(library, name):
    """The reducer `name` of a library; "weighted" and "other" have no tensor."""
    if name == "weighted":
        return library.SumWeightedLoss(0.5, 3.0)
    return (lambda loss: loss.square().mean()) if name == "other" else getattr(library, name)


def same_error(call):
    """The text of the error that ``call(library)`` raises, of the type that upstream raises."""
    with pytest.raises(Exception) as theirs:
        call(upstream)
    with pytest.raises(theirs.type) as error:
        call(ours)
    return str(error.value)
