"""Assignments against SciPy and against all permutations."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import fastloss.functional as F
from fastloss.testing import implementation

# Of these the optimum is unique: SciPy's assignment is the only right one.
UNIQUE = ("normal", "forbidden")
KINDS = (*UNIQUE, "points", "integers", "constant", "ranges")
BATCH = 8


def costs_of(g: np.random.Generator, kind: str, rows: int, columns: int) -> np.ndarray:
    """(BATCH, rows, columns) in float64. With forbidden pairs those of equal number are free, so
    that there is an assignment of finite cost."""
    shape = (BATCH, rows, columns)
    cost = g.normal(size=shape)
    if kind == "points":  # L1 distances: exchanging partners often costs the same
        cost = np.abs(g.random((BATCH, rows, 1, 2)) - g.random((BATCH, 1, columns, 2))).sum(-1)
    elif kind == "forbidden":
        cost[(g.random(shape) < 0.6) & ~np.eye(rows, columns, dtype=bool)] = np.inf
    elif kind == "integers":
        cost = g.integers(-3, 4, shape).astype(float)
    elif kind == "constant":
        cost = np.full(shape, g.normal())
    elif kind == "ranges":
        cost = np.sign(cost) * 10.0 ** g.uniform(-9, 9, shape)
    return cost


def shape_of(g: np.random.Generator, largest: int) -> tuple[int, int]:
    """Square, wide and tall matrices, single rows and columns, none."""
    a, b = (int(x) for x in g.integers(1, largest + 1, 2))
    return [(a, a), (a, b), (a, a + b), (a + b, a), (1, b), (a, 1), (0, b), (a, 0)][g.integers(8)]


def check_random(seed: int, largest: int) -> int:
    """Checks BATCH random problems against SciPy, each with its own columns."""
    g = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    rows, columns = shape_of(g, largest)
    cost = costs_of(g, kind, rows, columns)
    mask = np.arange(columns) < g.integers(0, columns + 1, (BATCH, 1))
    if kind == "forbidden":  # what is left over would have to be free pairs
        mask &= np.arange(columns) < rows
    elif seed % 2:
        mask = g.permuted(mask, axis=1)
    dtype = torch.float32 if kind in ("points", "integers") and seed % 3 else torch.float64
    given = torch.from_numpy(cost).to(dtype)
    chosen = F.linear_assignment(given, torch.from_numpy(mask))
    assert chosen.dtype == torch.int64 and not bool((chosen >= 0)[~torch.from_numpy(mask)].any())
    for matrix, real, result in zip(given.double().numpy(), mask, chosen.numpy()):
        check_one(matrix[:, real], result[real], kind)
    return BATCH


def check_one(cost: np.ndarray, row_of: np.ndarray, kind: str) -> None:
    rows, columns = linear_sum_assignment(cost)
    matched = np.flatnonzero(row_of >= 0)
    assert len(matched) == len(set(row_of[matched])) == min(cost.shape)
    if kind in UNIQUE:
        assert np.array_equal(columns[np.argsort(columns)], matched)
        assert np.array_equal(rows[np.argsort(columns)], row_of[matched])
    elif min(cost.shape):
        ours, theirs = cost[row_of[matched], matched].sum(), cost[rows, columns].sum()
        assert abs(ours - theirs) <= 1e-13 * np.abs(cost).max()


@pytest.mark.parametrize("seed", range(300))
def test_equals_scipy(seed):
    check_random(seed, 40)


def test_500_problems_of_the_reference_equal_scipy():
    with implementation("reference"):
        assert sum(check_random(seed, 20) for seed in range(100, 163)) >= 500


@pytest.mark.full
def test_100_000_problems_equal_scipy():
    assert sum(check_random(seed, 60) for seed in range(1000, 13_500)) == 100_000


@pytest.mark.parametrize("language", ("auto", "reference"))
@pytest.mark.parametrize("shape", [(n, n) for n in range(1, 8)] + [(3, 6), (7, 2), (2, 7)], ids=str)
def test_no_permutation_is_cheaper(shape, language, request):
    if language == "reference":
        request.getfixturevalue("reference_kernels")
    g = torch.Generator().manual_seed(sum(shape))
    cost = (torch.randn(4, *shape, generator=g, dtype=torch.float64) * 2).round()
    few, many = sorted(shape)
    for matrix, row_of in zip(cost, F.linear_assignment(cost)):
        tall = matrix if shape[0] >= shape[1] else matrix.mT
        ways = torch.tensor(list(itertools.permutations(range(many), few)))
        least = tall[ways, torch.arange(few)].sum(1).min()
        columns = (row_of >= 0).nonzero()[:, 0]
        assert matrix[row_of[columns], columns].sum() == least


@pytest.fixture
def reference_kernels():
    with implementation("reference"):
        yield


NEVER = float("inf")
# Least cost by hand; a greedy choice is dearer.
KNOWN = [
    ([[1, 2, 9], [1, 9, 9], [9, 5, 4]], 2 + 1 + 4),
    ([[1, 2, 9, 9], [1, 9, 9, 3], [9, 5, 4, 0]], 2 + 1 + 0),
    ([[-1, -2], [-1, -9]], -1 - 9),
    ([[3, NEVER, NEVER], [NEVER, NEVER, 1], [0, 7, 4]], 3 + 1 + 7),
    ([[]], 0),
]


@pytest.mark.parametrize("language", ("auto", "reference", "host"))
@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("matrix,least", KNOWN)
def test_known_costs(matrix, least, transposed, language):
    cost = torch.tensor(matrix, dtype=torch.float64)[None]
    cost = cost.mT if transposed else cost
    with implementation(language) if language != "auto" else torch.no_grad():
        ((rows, columns),) = F.linear_sum_assignment(cost)
    assert cost[0, rows, columns].sum() == least and len(rows) == min(cost.shape[1:])


def test_form_of_scipy():
    """Rows ascending, as SciPy returns them, whichever side has more members."""
    g = torch.Generator().manual_seed(0)
    for shape in ((5, 7), (7, 5), (6, 6)):
        cost = torch.randn(3, *shape, generator=g)
        mask = torch.rand(3, shape[1], generator=g) < 0.8
        for matrix, real, (rows, columns) in zip(cost, mask, F.linear_sum_assignment(cost, mask)):
            expected_rows, expected = linear_sum_assignment(matrix[:, real])
            assert rows.tolist() == expected_rows.tolist()
            assert columns.tolist() == real.nonzero()[:, 0][torch.from_numpy(expected)].tolist()


@pytest.mark.parametrize("kind", ("integers", "points", "constant"))
@pytest.mark.parametrize("seed", range(5))
def test_same_choice_among_equals_everywhere(kind, seed):
    """Which of the optimal assignments is returned does not depend on the implementation."""
    g = np.random.default_rng(seed)
    for shape in ((12, 12), (20, 9), (7, 30)):
        cost = torch.from_numpy(costs_of(g, kind, *shape)).float()
        expected = F.linear_assignment(cost)
        with implementation("reference"):
            assert torch.equal(F.linear_assignment(cost), expected)
