"""ClassMix: half of the classes that the easy image shows.

Olsson et al., ClassMix: Segmentation-Based Data Augmentation for Semi-Supervised Learning (2021).
"""

from atp.training.mixing import class_mix_masks as masks

__all__ = ["masks"]
