"""ClassMix: paste half of the classes in the easy image.

Olsson et al., ClassMix: Segmentation-Based Data Augmentation for Semi-Supervised Learning (2021).
"""

from atp.training.mixing import class_mix_masks as masks

__all__ = ["masks"]
