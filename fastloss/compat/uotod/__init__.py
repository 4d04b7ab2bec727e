"""The losses of uotod 0.3, unbalanced optimal transport for object detection, on fastloss kernels.

The names lie where uotod has them, in `loss`, and here too.
"""

from fastloss.compat.uotod import loss

__all__ = ["loss"]
