"""Cityscapes: Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding (2016)."""

from atp.datasets.label_maps import CITYSCAPES_CLASSES, CITYSCAPES_IDS
from atp.datasets.published import DataSet, LabelFiles, Part

TRAIN = Part("leftImg8bit/train", "gtFine/train", 2975)

CITYSCAPES = DataSet(
    name="cityscapes",
    parts={"source": TRAIN, "target": TRAIN, "test": Part("leftImg8bit/val", "gtFine/val", 500)},
    files=(
        LabelFiles("_gtFine_labelIds.png", CITYSCAPES_IDS),
        LabelFiles("_gtFine_labelTrainIds.png", CITYSCAPES_CLASSES.names),
    ),
    stem_ending="_leftImg8bit",
    classes=CITYSCAPES_CLASSES,
    size=(1024, 512),
    origin="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of www.cityscapes-dataset.com",
)
