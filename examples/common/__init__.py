"""What the examples share: the picture, training in turn, clocks, tables, curves, options."""

import sys
from pathlib import Path

# `bench` is part of the repository, not of the installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
