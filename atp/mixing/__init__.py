"""Ways in which propagate makes one image of an easy and a hard one: ``propagate.mix`` names a file of this folder.

Each has a function ``masks`` from the labels of the easy images, class ids, 255 = none, (N, H, W), int64, to where
these images are pasted onto the hard ones, bool, (N, H, W); None pastes nothing. It draws from PyTorch's own CPU
generator, so that a seed means the same masks on every device. A file may also have ``Contrast``, a module that learns
beside the network: see ``atp.training.contrast``.
"""
