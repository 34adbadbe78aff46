"""COCO's instances JSON: one annotation for each class of an image, as uncompressed run lengths."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atp.annotations.items import Item
from atp.annotations.runs import Runs
from atp.data.labels import LabelSpace

FILE = "annotations.json"


def write_coco(items: Sequence[Item], space: LabelSpace, folder: Path, name: str) -> str:
    """Write ``annotations.json``; the ids of images are their places in the order of correction.

    ``iscrowd`` is 1, which says that the segmentation is of run lengths, column by column. An image's ``entropy`` is an
    entry of ours, which readers of the format ignore.
    """
    categories = [{"id": number, "name": label, "supercategory": ""} for number, label in enumerate(space.names, 1)]
    images = [
        {
            "id": number,
            "file_name": item.file,
            "width": item.row.width,
            "height": item.row.height,
            "entropy": item.row.entropy,
        }
        for number, item in enumerate(items, 1)
    ]
    count = 0
    with (folder / FILE).open("w") as file:
        # One annotation after the other: all of them may not fit into memory.
        file.write(json.dumps({"info": {"description": name}, "licenses": [], "categories": categories})[:-1])
        file.write(f',\n"images": {json.dumps(images)},\n"annotations": [')
        for number, item in enumerate(items, 1):
            ids = item.ids()
            runs = Runs.of(ids.ravel("F"))
            for index in np.unique(runs.ids[runs.ids < space.num_classes]).tolist():
                count += 1
                rows, columns = np.flatnonzero((ids == index).any(1)), np.flatnonzero((ids == index).any(0))
                left, top = int(columns[0]), int(rows[0])
                counts = runs.alternating(index)
                annotation = {
                    "id": count,
                    "image_id": number,
                    "category_id": index + 1,
                    "iscrowd": 1,
                    "area": int(counts[1::2].sum()),
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "segmentation": {"size": list(ids.shape), "counts": counts.tolist()},
                }
                file.write(",\n" * (count > 1) + json.dumps(annotation))
        file.write("]}\n")
    return f"{FILE} and images/"
