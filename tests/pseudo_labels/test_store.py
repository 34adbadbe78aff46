import errno
import json
import logging
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from atp.data.labels import IGNORE, LabelSpace
from atp.errors import InputError
from atp.files import digest
from atp.losses.entropy import mean_entropy
from atp.pseudo_labels import store as module
from atp.pseudo_labels.negatives import negative_labels
from atp.pseudo_labels.store import PseudoLabelStore, PseudoLabelWriter, Table
from atp.pseudo_labels.thresholds import confidence_codes, least_confidence

SIZES = {"city/0001": (12, 20), "city/0002": (9, 13), "b": (12, 20), "a.b": (5, 33)}
KEEP_RATIO, NEGATIVE_THRESHOLD = 0.65, 0.05


def space(classes: int) -> LabelSpace:
    return LabelSpace(
        tuple(f"class {c}" for c in range(classes)), tuple((c, 255 - c, 7 * c % 256) for c in range(classes))
    )


def predictions(classes: int = 5, sizes: dict[str, tuple[int, int]] = SIZES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    return {name: (4 * torch.randn(classes, *size, generator=generator)).softmax(0) for name, size in sizes.items()}


def writer(folder: Path, classes: int = 5) -> PseudoLabelWriter:
    return PseudoLabelWriter(folder / "pending", classes, negative_threshold=NEGATIVE_THRESHOLD, keep_ratio=KEEP_RATIO)


def add_all(writing: PseudoLabelWriter, images: dict[str, Tensor]) -> None:
    for name, probabilities in images.items():
        writing.add(name, probabilities)


def dump(folder: Path, images: dict[str, Tensor]) -> Table:
    classes = len(next(iter(images.values())))
    writing = writer(folder, classes)
    add_all(writing, images)
    return writing.finish(folder / "labels", space(classes), images, {"model": "abc"})


@pytest.mark.parametrize("classes", [2, 11, 19, 40, 255])
def test_round_trip_against_direct_computation(tmp_path: Path, classes: int) -> None:
    images = predictions(classes)
    table = dump(tmp_path, images)
    store = PseudoLabelStore(tmp_path / "labels")
    assert store.table == json.loads(json.dumps(table)) | {"classes": table["classes"]}
    assert store.names == tuple(sorted(SIZES))
    assert store.label_space == space(classes)

    best = torch.cat([p.amax(0).flatten() for p in images.values()])
    label = torch.cat([p.argmax(0).flatten() for p in images.values()])
    # Eq. 4 by sorting: at least K of a class's pixels, and no more than share the last one's code.
    thresholds = torch.full((classes,), 2.0)
    for c in label.unique().tolist():
        ranked = best[label == c].sort(descending=True).values
        last = ranked[int(np.ceil(KEEP_RATIO * len(ranked) - 1e-9)) - 1]
        thresholds[c] = least_confidence(int(confidence_codes(last)))
        assert table["classes"][c]["threshold"] == thresholds[c].item()
    kept = torch.zeros(classes, dtype=torch.long)
    for name, probabilities in images.items():
        values, ids = probabilities.max(0)
        expected = ids.byte().masked_fill(values < thresholds[ids], IGNORE)
        assert torch.equal(store.positive(name), expected)
        negatives = negative_labels(probabilities[None], NEGATIVE_THRESHOLD)[0]
        assert torch.equal(store.negatives(name), negatives)
        kept += torch.bincount(expected.flatten(), minlength=256)[:classes]
    rows = table["classes"]
    assert [row["kept"] for row in rows] == kept.tolist()
    assert [row["predicted"] for row in rows] == torch.bincount(label, minlength=classes).tolist()
    assert all(row["coverage"] >= KEEP_RATIO for row in rows if row["predicted"])


@pytest.mark.parametrize("cap", [True, False])
def test_negatives_may_exceed_one_over_c(tmp_path: Path, cap: bool) -> None:
    """With five classes, a threshold of .5 marks more than one of 1/5."""
    images = predictions()
    writing = PseudoLabelWriter(
        tmp_path / "pending", 5, negative_threshold=0.5, keep_ratio=KEEP_RATIO, negative_cap=cap
    )
    add_all(writing, images)
    table = writing.finish(tmp_path / "labels", space(5), SIZES, {})
    assert table["negative_cap"] == PseudoLabelStore(tmp_path / "labels").table["negative_cap"] == cap
    for name, probabilities in images.items():
        expected = negative_labels(probabilities[None], 0.5, cap=cap)[0]
        assert torch.equal(PseudoLabelStore(tmp_path / "labels").negatives(name), expected)
        assert not torch.equal(expected, negative_labels(probabilities[None], 0.5, cap=not cap)[0])


def test_table_sums_up(tmp_path: Path) -> None:
    images = predictions()
    table = dump(tmp_path, images)
    store = PseudoLabelStore(tmp_path / "labels")
    pixels = sum(height * width for height, width in SIZES.values())
    negatives = torch.stack([store.negatives(name).sum((1, 2)) for name in SIZES]).sum(0)
    assert table["pixels"] == pixels
    assert table["coverage"] == pytest.approx(sum(row["kept"] for row in table["classes"]) / pixels)
    assert [row["negative"] for row in table["classes"]] == negatives.tolist()
    assert table["negatives_per_pixel"] == pytest.approx(float(negatives.sum()) / pixels)
    assert (table["keep_ratio"], table["negative_threshold"]) == (KEEP_RATIO, NEGATIVE_THRESHOLD)
    assert table["extra"] == {"model": "abc"}
    for row in table["images"]:
        probabilities = images[row["name"]]
        assert (row["height"], row["width"]) == SIZES[row["name"]]
        assert row["coverage"] == pytest.approx(float((store.positive(row["name"]) != IGNORE).float().mean()))
        assert row["entropy"] == pytest.approx(float(mean_entropy(probabilities[None])), rel=1e-5)


def test_coverage_of_a_class_is_what_was_kept_of_it(tmp_path: Path) -> None:
    # One pixel of class 1, nine of class 0, none of class 2.
    probabilities = torch.tensor([[0.9, 0.05, 0.05]] * 9 + [[0.1, 0.8, 0.1]]).T.reshape(3, 2, 5)
    probabilities[0, 0, 0] = 0.95
    table = dump(tmp_path, {"a": probabilities})
    assert [row["predicted"] for row in table["classes"]] == [9, 1, 0]
    assert [row["coverage"] for row in table["classes"]] == [
        row["kept"] / (9, 1, 1)[row["id"]] for row in table["classes"]
    ]
    assert table["classes"][1]["coverage"] == 1


def test_every_id_can_be_kept_everywhere(tmp_path: Path) -> None:
    """255 classes, and nothing without a label: the last ids do not occur."""
    table = dump(tmp_path, {"a": torch.eye(255)[:3, :, None].permute(1, 0, 2)})
    assert [row["kept"] for row in table["classes"]] == [1, 1, 1] + [0] * 252


def test_another_number_of_names_than_of_classes_is_a_mistake(tmp_path: Path) -> None:
    writing = writer(tmp_path)
    add_all(writing, predictions())
    with pytest.raises(ValueError, match="zip"):
        writing.finish(tmp_path / "labels", space(6), SIZES, {})
    assert not (tmp_path / "labels").exists()


def test_masks_are_palette_pngs_in_the_classes_colors(tmp_path: Path) -> None:
    dump(tmp_path, predictions())
    with Image.open(tmp_path / "labels/positives/city/0001.png") as mask:
        assert mask.mode == "P"
        colors = np.array(mask.convert("RGB"))
        ids = np.array(mask)
    c = int(ids[ids != IGNORE][0])
    assert tuple(colors[ids == c][0]) == space(5).colors[c]
    assert (colors[ids == IGNORE] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_labelled_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    images = {name: probabilities.to(dtype) for name, probabilities in predictions().items()}
    dump(tmp_path / "a", images)
    dump(tmp_path / "b", {name: probabilities.float() for name, probabilities in images.items()})
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_saturated_confidences_keep_their_labels(tmp_path: Path) -> None:
    ids = torch.arange(48).reshape(6, 8) % 3
    table = dump(tmp_path, {"a": torch.nn.functional.one_hot(ids, 3).permute(2, 0, 1).float()})
    assert [row["threshold"] for row in table["classes"]] == [1.0, 1.0, 1.0]
    assert table["coverage"] == 1
    assert torch.equal(PseudoLabelStore(tmp_path / "labels").positive("a"), ids.byte())
    assert table["images"][0]["entropy"] == 0


def test_of_equal_classes_the_first_is_predicted(tmp_path: Path) -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.1, 0.4])[:, None, None].expand(4, 3, 5)
    dump(tmp_path, {"a": probabilities})
    assert (PseudoLabelStore(tmp_path / "labels").positive("a") == 1).all()


def test_never_predicted_class_warns_and_selects_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    probabilities = torch.tensor([0.7, 0.1, 0.2])[:, None, None].expand(3, 4, 6)
    with caplog.at_level(logging.WARNING):
        table = dump(tmp_path, {"a": probabilities})
    assert caplog.messages == ["classes without positive labels, since they are never predicted: class 1, class 2"]
    assert [row["threshold"] for row in table["classes"]][1:] == [None, None]
    assert [row["kept"] for row in table["classes"]] == [24, 0, 0]
    assert (PseudoLabelStore(tmp_path / "labels").positive("a") == 0).all()


def test_bytes_do_not_depend_on_order_restarts_or_processes(tmp_path: Path) -> None:
    images = predictions()
    dump(tmp_path / "plain", images)
    names = list(images)

    first = writer(tmp_path / "resumed")
    for name in names[:1:-1]:
        first.add(name, images[name])
    # What a process killed while writing leaves behind.
    (tmp_path / "resumed/pending/.b.123.tmp.pending").write_bytes(b"half")
    assert writer(tmp_path / "resumed").done() == set(names[2:])
    # Two processes take up the rest.
    one, two = writer(tmp_path / "resumed"), writer(tmp_path / "resumed")
    one.add(names[1], images[names[1]])
    two.add(names[0], images[names[0]])
    assert one.done() == set(names)
    two.finish(tmp_path / "resumed/labels", space(5), reversed(names), {"model": "abc"})

    assert digest(tmp_path / "plain") == digest(tmp_path / "resumed")
    assert [path.name for path in (tmp_path / "resumed").iterdir()] == ["labels"]


@pytest.mark.parametrize("extra", ["an image twice", "an image too many"])
def test_what_counts_is_what_there_is_in_the_end(tmp_path: Path, extra: str) -> None:
    images = predictions()
    dump(tmp_path / "plain", images)
    names = list(images)
    writing = writer(tmp_path / "other")
    writing.add(names[0] if extra == "an image twice" else "more", images[names[0]].roll(1, 0))
    add_all(writing, images)
    writing.finish(tmp_path / "other/labels", space(5), names, {"model": "abc"})
    assert digest(tmp_path / "plain") == digest(tmp_path / "other")


def test_bytes_do_not_depend_on_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = predictions(5, {"a": (30, 40)})
    dump(tmp_path / "a", images)
    monkeypatch.setattr(module, "_BAND_PIXELS", 300)
    dump(tmp_path / "b", images)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_bytes_do_not_depend_on_threads(tmp_path: Path) -> None:
    # PyTorch shares out what has more than 32768 elements.
    images = predictions(3, {"a": (200, 300)})
    dump(tmp_path / "a", images)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        dump(tmp_path / "b", images)
    finally:
        torch.set_num_threads(threads)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_killed_while_adding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = writer(tmp_path)
    probabilities = predictions()["b"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            writing.add("b", probabilities)
    assert writing.done() == set()


def test_killed_while_finishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = predictions()
    dump(tmp_path / "plain", images)
    writing = writer(tmp_path / "killed")
    add_all(writing, images)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_png", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            writing.finish(tmp_path / "killed/labels", space(5), images, {})
    assert not (tmp_path / "killed/labels").exists()
    assert writing.done() == set(images)
    # Killed outright: a half-written sibling stays.
    stale = tmp_path / "killed/.labels.partial.tmp/positives/gone.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    # Killed after the rename, before the pending files were gone: the whole is written again over itself.
    shutil.copytree(tmp_path / "killed/pending", tmp_path / "copy")
    writing.finish(tmp_path / "killed/labels", space(5), images, {"model": "abc"})
    assert digest(tmp_path / "killed/labels") == digest(tmp_path / "plain/labels"), "what was half-written is gone"
    shutil.copytree(tmp_path / "copy", tmp_path / "killed/pending")
    writing.finish(tmp_path / "killed/labels", space(5), images, {"model": "abc"})
    assert digest(tmp_path / "killed") == digest(tmp_path / "plain")


def raising(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_finish_needs_every_image(tmp_path: Path) -> None:
    writing = writer(tmp_path)
    writing.add("b", predictions()["b"])
    with pytest.raises(InputError, match=r"3 images are missing, the first is a\.b"):
        writing.finish(tmp_path / "labels", space(5), SIZES, {})
    assert writing.done() == {"b"}


def test_damaged_pending_file_is_named(tmp_path: Path) -> None:
    writing = writer(tmp_path)
    writing.add("b", predictions()["b"])
    path = tmp_path / "pending/b.pending"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"b\.pending: damaged.*run the dump stage again"):
        writing.finish(tmp_path / "labels", space(5), ["b"], {})
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize("name", ["", ".", "/etc/a", "../a", "a/../b", "a//b", "a/", "./a", ".a", "a/.b"])
def test_names_that_are_no_paths_below_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="rename"):
        writer(tmp_path).add(name, predictions()["b"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("classes", [1, 256])
def test_numbers_of_classes_that_masks_cannot_hold(tmp_path: Path, classes: int) -> None:
    with pytest.raises(InputError, match=f"^{classes} classes"):
        writer(tmp_path, classes)


def test_predictions_that_are_not_finite(tmp_path: Path) -> None:
    probabilities = predictions()["b"]
    probabilities[2, 3, 4] = float("nan")
    writing = writer(tmp_path)
    with pytest.raises(InputError, match=r"^b: .*not finite"):
        writing.add("b", probabilities)
    assert writing.done() == set()


def test_predictions_of_another_number_of_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 classes instead of 5"):
        writer(tmp_path).add("b", predictions(4)["b"])


def test_reader_refuses_what_is_not_whole(tmp_path: Path) -> None:
    dump(tmp_path, predictions())
    folder = tmp_path / "labels"
    table = (folder / "table.json").read_text()

    def refused() -> str:
        with pytest.raises(InputError) as error:
            PseudoLabelStore(folder)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)
        return str(error.value)

    (folder / "table.json").write_text(table[:100])
    assert "damaged" in refused()
    (folder / "table.json").write_text(table.replace('"version": 2', '"version": 9'))
    assert "version" in refused()
    (folder / "table.json").unlink()
    assert "contains no finished pseudo labels (no table.json)" in refused()
    shutil.rmtree(folder)
    assert "run the dump stage" in refused()


def test_reader_names_the_damaged_file(tmp_path: Path) -> None:
    dump(tmp_path, predictions())
    store = PseudoLabelStore(tmp_path / "labels")
    mask, bitmap = tmp_path / "labels/positives/b.png", tmp_path / "labels/negatives/b.npy.zst"

    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(InputError, match=r"positives/b\.png"):
        store.positive("b")
    shutil.copy(tmp_path / "labels/positives/a.b.png", mask)
    with pytest.raises(InputError, match=r"positives/b\.png: .*run the dump stage again"):
        store.positive("b")
    shutil.copy(tmp_path / "labels/negatives/a.b.npy.zst", bitmap)
    with pytest.raises(InputError, match=r"negatives/b\.npy\.zst"):
        store.negatives("b")
    with pytest.raises(InputError, match="no pseudo labels for the image c"):
        store.positive("c")
    assert store.negatives("a.b").shape == (5, 5, 33)


def test_full_disk_while_adding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = predictions()
    writing = writer(tmp_path)
    writing.add("b", images["b"])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", raising(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(InputError, match="disk is full") as error:
            writing.add("a.b", images["a.b"])
    assert str(tmp_path / "pending") in str(error.value)
    assert "MB free" in str(error.value)
    assert "\n" not in str(error.value)
    assert writing.done() == {"b"}
    writing.add("a.b", images["a.b"])
    assert writing.done() == {"b", "a.b"}


def test_full_disk_while_finishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = predictions()
    writing = writer(tmp_path)
    add_all(writing, images)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", raising(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(InputError, match="disk is full"):
            writing.finish(tmp_path / "labels", space(5), images, {})
    assert [path.name for path in tmp_path.iterdir()] == ["pending"]
    assert writing.done() == set(images)
    writing.finish(tmp_path / "labels", space(5), images, {})


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", raising(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        writer(tmp_path).add("b", predictions()["b"])


def test_a_disk_that_is_really_full(tmp_path: Path, small_disk: Path) -> None:
    images = predictions(5, {str(number): (60, 80) for number in range(8)})
    writing = writer(small_disk)
    with pytest.raises(InputError, match=r"pending: the disk is full: 0\.0 MB free"):
        add_all(writing, images)
    done = writing.done()
    assert 0 < len(done) < len(images)
    assert {path.name for path in (small_disk / "pending").iterdir()} == {f"{name}.pending" for name in done}
    # Room is made, and the pass continues with what was done.
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    add_all(writing, {name: images[name] for name in images.keys() - done})
    writing.finish(tmp_path / "labels", space(5), images, {"model": "abc"})
    dump(tmp_path / "plain", images)
    assert digest(tmp_path / "labels") == digest(tmp_path / "plain/labels")


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    size, peaks = (64, 64), []
    probabilities = predictions(3, {"a": size})["a"]
    for count in (10, 70):
        names = [f"{number:03d}" for number in range(count)]
        writing = writer(tmp_path, 3)
        for name in names:
            writing.add(name, probabilities)
        tracemalloc.start()
        writing.finish(tmp_path / str(count), space(3), names, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The table has a row an image; a single mask kept for each would take 4 KiB.
    assert (peaks[1] - peaks[0]) / 60 < 2000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_labels_from_a_gpu_are_those_from_the_cpu(tmp_path: Path) -> None:
    images = predictions()
    dump(tmp_path / "cpu", images)
    dump(tmp_path / "gpu", {name: probabilities.cuda() for name, probabilities in images.items()})
    # The table holds entropies, and logarithms differ between devices in their last bits.
    for part in ("positives", "negatives"):
        assert digest(tmp_path / "cpu/labels" / part) == digest(tmp_path / "gpu/labels" / part)
