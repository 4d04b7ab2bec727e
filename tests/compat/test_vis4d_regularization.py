"""OrthogonalTransformRegularizationLoss against vis4d's, and where vis4d's fails."""

import pytest
import torch
from parity import assert_parity
from torch._subclasses.fake_tensor import FakeTensorMode
from vis4d_cases import ours, upstream

G = torch.Generator().manual_seed(0)
MATRICES = torch.randn(4, 3, 3, generator=G)
IDENTITIES = torch.eye(3).expand(2, 3, 3)
LISTS = {
    "one batch": (MATRICES,),
    "several sizes": (MATRICES, torch.randn(2, 5, 5, generator=G)),
    "the same size twice": (MATRICES, MATRICES[:2]),
    "wide and tall": (torch.randn(2, 2, 5, generator=G), torch.randn(3, 5, 2, generator=G)),
    "transposed": (MATRICES.mT,),
    "orthogonal": (IDENTITIES,),
    "one of them orthogonal": (torch.cat((IDENTITIES, MATRICES)),),
    "zero": (torch.zeros(2, 3, 3),),
    "no matrix": (MATRICES, MATRICES[:0]),
}
each = pytest.mark.parametrize("transforms", LISTS.values(), ids=LISTS)
ours_of = ours.OrthogonalTransformRegularizationLoss


def of_list(loss):
    return lambda *transforms: loss(list(transforms))


def plain(*transforms):
    """The formula, in the precision of the matrices."""
    total = 0.0
    for x in transforms:
        difference = x @ x.mT - torch.eye(x.shape[1], dtype=x.dtype)
        total = total + torch.linalg.matrix_norm(difference).mean()
    return total


@each
def test_values_and_gradients(transforms):
    theirs = upstream.OrthogonalTransformRegularizationLoss()
    value, expected = ours_of()(transforms), theirs(transforms)
    torch.testing.assert_close(value, expected, equal_nan=True)
    assert_parity(of_list(ours_of()), plain, *transforms)


@each
def test_float64_stays(transforms):
    """Bug: upstream sums in float32."""
    assert_parity(of_list(ours_of()), plain, *transforms, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    x = MATRICES.to(dtype)
    torch.testing.assert_close(ours_of()([x]), plain(x.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ours_of()([MATRICES])
    torch.testing.assert_close(value, plain(MATRICES))


def test_other_devices():
    """Bug: upstream adds to a number on the CPU in place."""
    with FakeTensorMode():
        x = torch.empty(4, 3, 3, device="cuda")
        value = ours_of()([x, x.double()])
    assert value.device.type == "cuda" and value.dtype == torch.float64 and value.shape == ()


def test_no_state():
    """Bug: upstream's checkpoints have an entry for every size that it has seen."""
    loss, theirs = ours_of(), upstream.OrthogonalTransformRegularizationLoss()
    for module in (loss, theirs):
        module([MATRICES])
    assert loss.state_dict() == {} and list(theirs.state_dict()) == ["identity_3"]


def test_no_batches():
    value = ours_of()([])
    assert value == 0 and value.dtype == torch.float32 and value.shape == ()


def test_shape():
    with pytest.raises(RuntimeError):
        ours_of()([MATRICES[0]])
