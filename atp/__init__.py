"""ATP: source-free adaptation of semantic-segmentation models (align, teach, propagate)."""

import os

__version__ = "0.1.0"

# Before torch loads its OpenMP library, which reads it: a waiting thread that spins takes the core that another process
# on the machine needs, and a training step then takes twenty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
