"""rotation_loss against vis4d's."""

import pytest
import torch
from parity import assert_parity
from vis4d_cases import DTYPES, LIBRARIES, ours, reducer, same_error

from fastloss.testing import forbid_host_reads

B, BINS = 7, 3
G = torch.Generator().manual_seed(0)
PRED = 2 * torch.randn(B, 3 * BINS, generator=G)
BIN = (torch.rand(B, BINS, generator=G) < 0.5).float()
RES = 3 * torch.randn(B, BINS, generator=G)
ABSENT = BIN * torch.tensor([1.0, 0.0, 1.0])
SOFT = torch.where(BIN == 1, 1.0, torch.rand(B, BINS, generator=G))
CASES = {
    "bins": (PRED, BIN, RES),
    "a bin without rows": (PRED, ABSENT, RES),
    "no bin has rows": (PRED, torch.zeros_like(BIN), RES),
    "every row in every bin": (PRED, torch.ones_like(BIN), RES),
    "soft bins": (PRED, SOFT, RES),
    "one box": (PRED[:1], BIN[:1], RES[:1]),
    "one bin": (PRED[:, :3], BIN[:, :1], RES[:, :1]),
    "more columns": (torch.cat((PRED, PRED), 1), BIN, torch.cat((RES, RES), 1)),
    "transposed": (PRED.T.contiguous().T, BIN.T.contiguous().T, RES.T.contiguous().T),
    "no boxes": (PRED[:0], BIN[:0], RES[:0]),
}


def calls(how, bins=BINS):
    return [
        lambda *args, library=library: library.rotation_loss(*args, bins, reducer(library, how))
        for library in LIBRARIES
    ]


@DTYPES
@pytest.mark.parametrize("how", ["mean_loss", "sum_loss", "weighted", "other"])
@pytest.mark.parametrize("args", CASES.values(), ids=CASES)
def test_values_and_gradients(args, how, dtype):
    assert_parity(*calls(how, args[1].shape[1]), *args, dtype=dtype, scale=1.0)


@pytest.mark.parametrize("how", ["mean_loss", "sum_loss", "other"])
def test_rows_out_of_a_bin_are_not_read(how):
    chosen = BIN == 1
    values = PRED[:, BINS:].unflatten(1, (BINS, 2)).masked_fill(~chosen[..., None], torch.inf)
    pred = torch.cat((PRED[:, :BINS], values.flatten(1)), 1)
    results = []
    for args in ((PRED, RES), (pred, RES.masked_fill(~chosen, torch.nan))):
        leaves = [x.clone().requires_grad_() for x in args]
        value = calls(how)[0](leaves[0], BIN, leaves[1])
        results.append([value, *torch.autograd.grad(value, leaves)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("how", ["mean_loss", "sum_loss"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64], ids=str)
def test_dtypes_of_the_bins(dtype, how):
    torch.testing.assert_close(
        calls(how)[0](PRED, BIN.to(dtype), RES), calls(how)[1](PRED, BIN, RES), check_dtype=False
    )


@pytest.mark.parametrize("how", ["mean_loss", "sum_loss"])
def test_no_host_read(how):
    pred = PRED.clone().requires_grad_()
    with forbid_host_reads():
        calls(how)[0](pred, BIN, RES).backward()


def test_the_default_reducer_does_not_reduce():
    same_error(lambda library: library.rotation_loss(PRED, BIN, RES, BINS))
    one_bin = PRED[:, :3], torch.ones(B, 1), RES[:, :1], 1
    same_error(lambda library: library.rotation_loss(*one_bin, lambda loss: loss))
    with pytest.raises(RuntimeError, match="scalar"):
        ours.rotation_loss(PRED, torch.zeros_like(BIN), RES, BINS)


ERRORS = {
    "columns of target_bin": (PRED, BIN[:, 1:], RES),
    "rows of target_bin": (PRED, BIN[1:], RES),
    "columns of pred": (PRED[:, : 2 * BINS], BIN, RES),
    "no columns of pred": (PRED[:, :BINS], BIN, RES),
    "rows of target_res": (PRED, BIN, RES[1:]),
    "columns of target_res": (PRED, BIN, RES[:, 1:]),
}


@pytest.mark.parametrize("args", ERRORS.values(), ids=ERRORS)
def test_errors(args):
    same_error(lambda library: library.rotation_loss(*args, BINS, library.mean_loss))
