"""GTA5: Richter et al., Playing for Data (2016)."""

from atp.datasets.label_maps import CITYSCAPES_CLASSES, CITYSCAPES_IDS
from atp.datasets.published import DataSet, LabelFiles, Part

IDS = (*CITYSCAPES_IDS, "license plate")
"""Cityscapes' ids and, as id 34, the licence plate, which has no id there. The palette in the files differs from
Cityscapes' colours only at id 4."""

GTA5 = DataSet(
    name="gta5",
    parts={"source": Part("images", "labels", 24966)},
    files=(LabelFiles(".png", IDS),),
    classes=CITYSCAPES_CLASSES,
    size=(1280, 720),
    origin="01_images.zip to 10_images.zip and 01_labels.zip to 10_labels.zip of download.visinf.tu-darmstadt.de",
)
