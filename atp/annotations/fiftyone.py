"""A FiftyOne data set of predicted images; FiftyOne is an optional package."""

from collections.abc import Sequence

from atp.annotations.items import Item
from atp.data.labels import LabelSpace
from atp.errors import InputError

VIEW = "least certain first"


def add_to_fiftyone(items: Sequence[Item], space: LabelSpace, name: str) -> str:
    """Add a data set of this name, with a saved view of the least certain images first; nothing is copied.

    Raises:
        InputError: if FiftyOne is not installed, cannot reach its database, or has a data set of this name.
    """
    try:
        import fiftyone
        from fiftyone.core.config import FiftyOneConfigError
    except ImportError as error:
        raise InputError(
            "--format fiftyone: needs the package fiftyone, not installed: pip install fiftyone"
        ) from error
    try:
        exists = fiftyone.dataset_exists(name)
    except FiftyOneConfigError as error:
        raise InputError(f"--format fiftyone: {' '.join(str(error).split())}") from error
    if exists:
        raise InputError(f"{name}: FiftyOne has a data set of this name; name another one")
    data = fiftyone.Dataset(name, persistent=True)
    # It reads a palette PNG as colours.
    data.default_mask_targets = {
        "#{:02x}{:02x}{:02x}".format(*color): label for label, color in zip(space.names, space.colors, strict=True)
    }
    data.add_samples(
        [
            fiftyone.Sample(
                filepath=item.row.image,
                entropy=item.row.entropy,
                prediction=fiftyone.Segmentation(mask_path=str(item.mask.absolute())),
            )
            for item in items
        ]
    )
    data.save_view(VIEW, data.sort_by("entropy", reverse=True))
    return f"data set {name} in FiftyOne, with the view {VIEW!r}; open it with: fiftyone app launch {name}"
