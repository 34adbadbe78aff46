"""ClassMix with regional contrast.

Liu et al., Bootstrapping Semantic Segmentation with Regional Contrast (2022).
"""

from atp.training.contrast import RegionalContrast as Contrast
from atp.training.mixing import class_mix_masks as masks

__all__ = ["Contrast", "masks"]
