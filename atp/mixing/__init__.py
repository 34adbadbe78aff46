"""Mixing of an easy and a hard image in propagate: ``propagate.mix`` names a file in this folder.

Each file has a function ``masks`` that maps the easy images' labels (class ids, 255 = none, (N, H, W), int64) to masks
of the pixels to paste onto the hard images (bool, (N, H, W)), or to None, which pastes nothing. It draws from PyTorch's
CPU generator, so that a seed gives the same masks on every device.

A file may also define:

- ``views``, which maps ``atp.training.views.Seen`` to a list of ``View``: the views of the hard images on which the
  student learns to agree with the teacher. Without it, there is one: the strongly augmented image, pasted by ``masks``.
- ``SECOND_VIEW = True``, to get a second strongly augmented view of each hard image.
- ``confidence``, which replaces ``confidence_share`` of ``atp.losses.consistency``, with the same arguments. It returns
  the weight of each image, (N,), or pixel, (N, H, W).
- ``Contrast``, a module trained jointly with the network: see ``atp.training.contrast``.
"""
