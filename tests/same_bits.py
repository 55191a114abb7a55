"""Two results are the same to the last bit."""

import numpy as np

from genet_ext.result import FitResult

FIELDS = (
    "theta",
    "regressed",
    "features",
    "loss",
    "distance",
    "posterior",
    "baseline",
    "landmarks",
    "iterations",
    "similarity",
)


def assert_same_bits(one: FitResult, other: FitResult):
    for name in FIELDS:
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True), name
    assert one.status == other.status
