"""Cross-City (NTHU), one of its cities: Chen et al., No More Discrimination (2017)."""

from atp.datasets.label_maps import CITYSCAPES_IDS, label_space
from atp.datasets.published import DataSet, LabelFiles, Part

CROSS_CITY = DataSet(
    name="cross-city",
    parts={"target": Part("Images/Train", None, 3200), "test": Part("Images/Test", "Labels/Test", 100)},
    files=(LabelFiles("_eval.png", CITYSCAPES_IDS),),
    classes=label_space(13),
    size=(1024, 512),
    origin="one city's folder of NTHU's, by request at yihsinchen.github.io/segmentation_adaptation_dataset",
)
