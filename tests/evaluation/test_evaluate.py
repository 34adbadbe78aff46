"""Evaluation of a network on images and labels of several sizes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atp.data.folder import Sample
from atp.data.tensors import read_image
from atp.errors import InputError
from atp.evaluation.evaluate import Evaluation, evaluate
from atp.evaluation.evidence.measure import measure
from atp.losses.entropy import mean_entropy
from atp.training.prediction import Predictor
from tests.method.known import CPU, SPACE, Known

SIZES = [(8, 4)] * 9 + [(6, 5)] * 2 + [(8, 4)]


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Twelve images in three chunks of one size; every third has no label, and labels are twice as large."""
    generator = np.random.default_rng(0)
    found = []
    for index, (width, height) in enumerate(SIZES):
        image, label = tmp_path / f"images/{index:02}.png", tmp_path / f"labels/{index:02}.png"
        for path, shape in ((image, (height, width, 3)), (label, (2 * height, 2 * width))):
            path.parent.mkdir(exist_ok=True)
            most = 256 if len(shape) == 3 else SPACE.num_classes
            Image.fromarray(generator.integers(0, most, shape, dtype=np.uint8)).save(path)
        found.append(Sample(f"{index:02}", image, None if index % 3 == 2 else label))
    return found


def evaluated(samples: list[Sample], folder: Path, workers: int = 0) -> Evaluation:
    runtime = replace(CPU, workers=workers)
    return evaluate(Known(), samples, None, runtime, predictions=folder, label_space=SPACE)


def test_each_image_is_compared_with_its_label_at_the_labels_size(samples: list[Sample], tmp_path: Path) -> None:
    result = evaluated(samples, tmp_path / "out")
    labelled = [sample for sample in samples if sample.label]
    assert list(result.miou) == [sample.name for sample in labelled]
    assert list(result.entropy) == [sample.name for sample in samples]
    counts = torch.zeros(SPACE.num_classes, SPACE.num_classes, dtype=torch.int64)
    for sample in samples:
        (own,) = Predictor([(Known(), 1.0)], CPU).probabilities(read_image(sample.image)[None])
        assert result.entropy[sample.name] == pytest.approx(float(mean_entropy(own[None])[0]), rel=1e-6)
        with Image.open(tmp_path / f"out/{sample.name}.png") as file:
            predicted = torch.from_numpy(np.array(file)).long()
        assert tuple(predicted.shape) == tuple((2 if sample.label else 1) * side for side in own.shape[1:])
        if sample.label is None:
            assert torch.equal(predicted, own.argmax(0))
        else:
            with Image.open(sample.label) as file:
                truth = torch.from_numpy(np.array(file)).long()
            counts += torch.bincount((truth * len(counts) + predicted).flatten(), minlength=9).reshape(3, 3)
    assert torch.equal(result.confusion.counts, counts)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_nothing(samples: list[Sample], tmp_path: Path, workers: int) -> None:
    one, other = evaluated(samples, tmp_path / "one"), evaluated(samples, tmp_path / "other", workers)
    assert torch.equal(one.confusion.counts, other.confusion.counts)
    assert (one.miou, one.entropy) == (other.miou, other.entropy)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()
    straight, threaded = (measure(Known(), samples, None, replace(CPU, workers=n)).to_json() for n in (0, workers))
    assert straight == threaded


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_label_is_one_line(samples: list[Sample], tmp_path: Path, workers: int) -> None:
    label = samples[10].label
    assert label is not None
    label.write_bytes(b"no label")
    with pytest.raises(InputError, match=r"10\.png: cannot be read as a label \(unknown image format\)"):
        evaluated(samples, tmp_path / "out", workers)
