"""csrc/common/math.h: the float polynomials against float64, within the bounds that it states."""

import numpy as np
import pytest

TINY = np.finfo(np.float32).tiny


def ulps(got: np.ndarray, true: np.ndarray) -> float:
    """The largest distance, in units of the last place of float32 at the true value."""
    spacing = np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(got.astype(np.float64) - true) / spacing))


def grid(low: float, high: float, n: int = 400_001) -> np.ndarray:
    return np.linspace(low, high, n, dtype=np.float64).astype(np.float32)


def wide(low: float = -37.9, high: float = 38.5) -> np.ndarray:
    """Positive numbers over the whole range of float32, evenly in the exponent."""
    return (10.0 ** np.linspace(low, high, 400_001)).astype(np.float32)


CASES = {
    "exp": (grid(-87.3, 88), np.exp, 2),
    "log": (np.concatenate([wide(), grid(0.5, 2)]), np.log, 2),
    "log1p": (np.concatenate([-wide(-30, -0.01), wide(-30, 30)]), np.log1p, 4),
    "log1p_unit": (np.concatenate([grid(0, 1), wide(-37, 0)]), np.log1p, 3),
    "inverse_1p": (np.concatenate([grid(0, 1), wide(-37, 0)]), lambda e: 1 / (1 + e), 2),
    "one_minus_exp": (np.concatenate([grid(0, 88), wide(-37, 0)]), lambda b: -np.expm1(-b), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_function_is_within_its_bound(name, native):
    x, true, bound = CASES[name]
    assert ulps(getattr(native.float32, name)(x), true(x.astype(np.float64))) <= bound


@pytest.mark.parametrize("name", CASES)
def test_double_is_the_standard_library(name, native):
    x, true, _ = CASES[name]
    got, expected = getattr(native.float64, name)(x[::100]), true(x[::100].astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0, 4.0])
def test_pow(exponent, native):
    x = np.concatenate([grid(0.001, 1), wide(-6, 6)])
    true = x.astype(np.float64) ** exponent
    # The relative error of exp(y log x) grows with the size of its argument, here at most 55.
    np.testing.assert_allclose(native.float32.pow(x, exponent), true, rtol=6e-6)


@pytest.mark.parametrize("base, exponent, power", [(0, 0, 1), (0, 2, 0), (0, 0.5, 0), (1, 7, 1)])
def test_pow_at_its_corners(base, exponent, power, native):
    assert native.float32.pow(base, exponent) == power
    assert native.float64.pow(base, exponent) == power


def test_atan_ratio_covers_all_quadrants(native):
    angle = grid(-3.14, 3.14, 10_001).astype(np.float64)
    for scale in (1e-6, 1.0, 1e6):
        y, x = (
            (scale * np.sin(angle)).astype(np.float32),
            (scale * np.cos(angle)).astype(np.float32),
        )
        true = np.arctan(y.astype(np.float64) / x.astype(np.float64))
        np.testing.assert_allclose(native.float32.atan_ratio(y, x), true, rtol=4e-7, atol=1e-12)


@pytest.mark.parametrize(
    "y, x, angle", [(0, 0, 0), (0, 1, 0), (1, 0, np.pi / 2), (-1, 0, -np.pi / 2)]
)
def test_atan_ratio_on_the_axes(y, x, angle, native):
    assert native.float32.atan_ratio(y, x) == pytest.approx(angle, rel=1e-7)
    assert native.float64.atan_ratio(y, x) == pytest.approx(angle, rel=1e-15)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_stays_nan(name, dtype, native):
    assert np.isnan(getattr(getattr(native, dtype), name)(np.nan))


def test_infinities(native):
    assert native.float32.log(np.inf) == np.inf
    assert native.float32.log(0) == pytest.approx(np.log(TINY))
    # Loss tails: nothing overflows, and nothing becomes denormal.
    assert TINY / 2 < native.float32.exp(-np.inf) < 2 * TINY
    assert np.isfinite(native.float32.exp(np.inf))
