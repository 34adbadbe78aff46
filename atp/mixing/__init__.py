"""Mixing of an easy and a hard image in propagate: ``propagate.mix`` names a file in this folder.

Each file has a function ``masks`` that maps the easy images' labels (class ids, 255 = none, (N, H, W), int64) to masks
of the pixels to paste onto the hard images (bool, (N, H, W)), or to None, which pastes nothing. It draws from PyTorch's
CPU generator, so that a seed gives the same masks on every device. A file may also define ``Contrast``, a module
trained jointly with the network: see ``atp.training.contrast``.
"""
