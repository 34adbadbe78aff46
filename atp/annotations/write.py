"""Predicted masks as annotations that people correct in another tool: the command ``atp annotations``."""

from pathlib import Path

from atp.annotations.coco import write_coco
from atp.annotations.cvat import write_cvat
from atp.annotations.fiftyone import add_to_fiftyone
from atp.annotations.items import items_of, place_images
from atp.annotations.label_studio import write_label_studio
from atp.errors import InputError, counted
from atp.files import new_folder
from atp.media.record import read_record

WRITERS = {"coco": write_coco, "cvat": write_cvat, "label-studio": write_label_studio}
FIFTYONE = "fiftyone"


def write_annotations(predictions: Path, out: Path, kind: str, most: int = 0) -> str:
    """Write the masks of ``atp predict`` in a tool's format, with the images, the least certain first.

    Args:
        predictions: folder that ``atp predict`` wrote.
        out: folder to create; it appears once all files are written. For FiftyOne, the name of the data set.
        kind: one of ``WRITERS``, or ``fiftyone``.
        most: number of images, the least certain ones; 0 takes all.

    Returns:
        One line about what was written.

    Raises:
        InputError: if the format is unknown, the predictions are missing or damaged, or ``out`` exists.
    """
    if kind not in (*WRITERS, FIFTYONE):
        raise InputError(f"--format {kind}: must be {', '.join(WRITERS)} or {FIFTYONE}")
    record = read_record(predictions)
    items = items_of(predictions, record, most)
    if kind == FIFTYONE:
        return add_to_fiftyone(items, record.classes, out.name)
    with new_folder(out) as folder:
        place_images(items, folder / "images")
        written = WRITERS[kind](items, record.classes, folder, out.name)
    return f"{counted(len(items), 'image')}, the least certain first, in {out}: {written}"
