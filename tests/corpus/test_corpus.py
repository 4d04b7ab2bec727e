"""Random calls of every op, FASTLOSS_CASES a stem; `make asan` runs them in a sanitized build."""

import os
from pathlib import Path

import pytest
from checking import check
from hypothesis import HealthCheck, given, settings
from stems import STEMS

import fastloss
from fastloss._library import OPS

CASES = int(os.environ.get("FASTLOSS_CASES", "80"))
# The same cases on every machine; numbers are never timed.
corpus = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.skipif("FASTLOSS_PACKAGE" not in os.environ, reason="sanitize.py names the package")
def test_package_is_the_one_to_test():
    assert Path(fastloss.__file__).parents[1] == Path(os.environ["FASTLOSS_PACKAGE"])
    assert {op["cpu"] for op in fastloss.backends().values()} == {"C++"}


def test_every_op_has_a_strategy():
    without = {op for op in OPS if not op.startswith(tuple(STEMS))}
    assert without == {"scale_"}, "add tests/corpus/stems/<stem>.py"
    assert all(any(op.startswith(stem) for op in OPS) for stem in STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_random_calls(stem):
    @corpus
    @given(case=STEMS[stem])
    def run(case):
        check(case)

    run()
