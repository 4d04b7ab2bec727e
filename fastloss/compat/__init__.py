"""The loss classes of other libraries, under their own names, on fastloss kernels.

Each subpackage mirrors one library: the same names, argument order, defaults, values and exception
types, so that a training script changes its import line only. A subpackage translates; it computes
nothing that a native loss computes.
"""
