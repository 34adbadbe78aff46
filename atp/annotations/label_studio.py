"""Label Studio's tasks: predictions with a brush, and the labelling interface that they need."""

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from atp.annotations.items import Item
from atp.annotations.runs import Runs, brush
from atp.data.labels import LabelSpace

FILE = "tasks.json"


def write_label_studio(items: Sequence[Item], space: LabelSpace, folder: Path, name: str) -> str:
    """Write ``tasks.json`` to import, and ``interface.xml``, the labelling interface.

    A prediction's score is 1 less the entropy, so that the tool's order by score has the least certain first. The
    addresses of images are those of local files below the parent of the new folder, which is ``name``.
    """
    labels = [
        "    <Label value={} background={}/>\n".format(
            quoteattr(label), quoteattr("#{:02x}{:02x}{:02x}".format(*color))
        )
        for label, color in zip(space.names, space.colors, strict=True)
    ]
    (folder / "interface.xml").write_text(
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="tag" toName="image">\n'
        f"{''.join(labels)}  </BrushLabels>\n</View>\n",
        encoding="utf-8",
    )
    with (folder / FILE).open("w") as file:
        # One task after the other: all of them may not fit into memory.
        for number, item in enumerate(items):
            file.write(",\n" if number else "[")
            file.write(json.dumps(_task(item, space, name)))
        file.write("]\n")
    return f"{FILE}, interface.xml and images/"


def _task(item: Item, space: LabelSpace, name: str) -> dict[str, object]:
    runs = Runs.of(item.ids().ravel())
    results = [
        {
            "id": f"class{index}",
            "type": "brushlabels",
            "from_name": "tag",
            "to_name": "image",
            "original_width": item.row.width,
            "original_height": item.row.height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": brush(runs.alternating(index)),
                "brushlabels": [space.names[index]],
            },
        }
        for index in np.unique(runs.ids[runs.ids < space.num_classes]).tolist()
    ]
    score = round(1 - item.row.entropy, 6)
    return {
        "data": {"image": f"/data/local-files/?d={quote(f'{name}/images/{item.file}')}", "entropy": item.row.entropy},
        "predictions": [{"model_version": "atp", "score": score, "result": results}],
    }
