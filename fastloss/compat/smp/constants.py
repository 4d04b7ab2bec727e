"""The modes of smp's losses, by the shapes of prediction and target."""

BINARY_MODE: str = "binary"  # (N, 1, *) or (N, *), target 0 or 1 in either shape
MULTICLASS_MODE: str = "multiclass"  # (N, C, *), target: class ids (N, *)
MULTILABEL_MODE: str = "multilabel"  # (N, C, *), target (N, C, *) of 0 and 1, classes overlap
