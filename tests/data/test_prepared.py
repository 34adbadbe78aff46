"""Images that are decoded once for all processes, and never in the way."""

import errno
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from atp.data.folder import Sample, list_samples
from atp.data.loading import FolderLabels, Images, TrainingOrder, training_loader
from atp.data.prepared import Prepared, Store
from atp.data.settings import Augmentation
from atp.data.tensors import read_image, read_label
from atp.errors import InputError
from atp.files import digest
from tests.stages.launch import forkserver

SIZE = (24, 16)
LARGE = 2**30
PAGE = 4096


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Seven images of two sizes with labels of three classes."""
    generator = np.random.default_rng(0)
    for index in range(7):
        width, height = (40, 20) if index % 3 else (30, 30)
        for folder, shape, most in (("images", (height, width, 3), 256), ("labels", (height, width), 3)):
            path = tmp_path / folder / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(generator.integers(0, most, shape, dtype=np.uint8)).save(path)
    return list_samples(tmp_path / "images", tmp_path / "labels")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "prepared", LARGE)


def opened(store: Store, samples: list[Sample], size: tuple[int, int] | None = SIZE) -> Prepared:
    return store.images([sample.image for sample in samples], size)


def never() -> Tensor:
    pytest.fail("is read again")


def made(prepared: Prepared, samples: list[Sample], size: tuple[int, int] | None = SIZE) -> None:
    for sample in samples:
        assert torch.equal(prepared.image(sample, size), pixels(sample, size))


def pixels(sample: Sample, size: tuple[int, int] | None = SIZE) -> Tensor:
    return read_image(sample.image, size)


@pytest.mark.parametrize("size", [SIZE, None])
def test_an_image_is_read_once_by_all_that_open_the_list(
    store: Store, samples: list[Sample], size: tuple[int, int] | None
) -> None:
    made(opened(store, samples, size), samples, size)
    for _ in range(2):
        again = opened(store, samples, size)
        for sample in samples:
            assert torch.equal(again.get(sample.image, never), pixels(sample, size))
            assert torch.equal(again.get(sample.image, never), pixels(sample, size)), "and without a comparison"


def test_images_are_made_when_they_are_needed(store: Store, samples: list[Sample]) -> None:
    made(opened(store, samples), samples[3:5])
    again = opened(store, samples)
    for sample in samples[3:5]:
        again.get(sample.image, never)
    made(again, samples)


def test_labels_are_kept_apart(store: Store, samples: list[Sample], tmp_path: Path) -> None:
    files = [sample.label for sample in samples if sample.label]
    for number in (3, 4):
        for _ in range(2):
            labels = FolderLabels(number, SIZE, store.labels(files, SIZE, number))
            for sample in samples:
                assert sample.label is not None
                assert torch.equal(labels(sample).ids, read_label(sample.label, 3, SIZE))
    # An id that is a class of four and not of three must be found out.
    assert len(list((tmp_path / "prepared").iterdir())) == 2


def test_a_tensor_can_be_changed_and_the_file_is_not(store: Store, samples: list[Sample]) -> None:
    prepared = opened(store, samples)
    made(prepared, samples)
    prepared.get(samples[0].image, never).zero_()
    assert torch.equal(prepared.get(samples[0].image, never), pixels(samples[0]))


def other_file(samples: list[Sample]) -> None:
    shutil.copyfile(samples[1].image, samples[2].image)


def other_order(samples: list[Sample]) -> None:
    samples.reverse()


@pytest.mark.parametrize("change", [other_file, other_order])
def test_another_image_is_prepared_anew(
    store: Store, samples: list[Sample], change: Callable[[list[Sample]], None]
) -> None:
    made(opened(store, samples), samples)
    change(samples)
    made(opened(store, samples), samples)


def test_another_name_and_time_of_the_same_image_is_the_same(
    store: Store, samples: list[Sample], tmp_path: Path
) -> None:
    made(opened(store, samples), samples)
    shutil.copytree(tmp_path / "images", tmp_path / "copies")
    copies = list_samples(tmp_path / "copies")
    again = opened(store, copies)
    for sample in copies:
        assert torch.equal(again.get(sample.image, never), pixels(sample))


def test_damaged_bytes_are_made_again(store: Store, samples: list[Sample], tmp_path: Path) -> None:
    """As after a power failure, which may keep the checks alone."""
    made(opened(store, samples), samples)
    (path,) = (tmp_path / "prepared").glob("*/pixels")
    with path.open("r+b") as file:
        file.seek(10)
        file.write(b"other")
    made(opened(store, samples), samples)
    again = opened(store, samples)
    again.get(samples[0].image, never)


def test_of_a_list_that_does_not_fit_the_first_images_are_kept(samples: list[Sample], tmp_path: Path) -> None:
    few = Store(tmp_path / "prepared", 3 * (PAGE + 3 * 24 * 16))
    made(opened(few, samples), samples)
    again = opened(few, samples)
    for sample in samples[:3]:
        again.get(sample.image, never)
    for sample in samples[3:]:
        sample.image.unlink()
        with pytest.raises(InputError, match="no such file"):
            again.image(sample, SIZE)


def test_the_list_not_used_for_longest_makes_room(samples: list[Sample], tmp_path: Path) -> None:
    # Each list takes 7 pages of pixels and one of checks; there is room for two and a half.
    few = Store(tmp_path / "prepared", 20 * PAGE + 7 * 3 * 24 * 16)
    folders = {}
    for age, size in enumerate([(24, 16), (24, 15), (24, 14)]):
        if size == (24, 14):
            # The first one is used again, so that the second is the older one.
            os.utime(folders[24, 16], (0, 0))
            os.utime(folders[24, 15], (1, 1))
            held = opened(few, samples, (24, 16))
        before = set((tmp_path / "prepared").glob("*"))
        made(opened(few, samples, size), samples, size)
        (folders[size],) = set((tmp_path / "prepared").iterdir()) - before
        assert age < 3
    assert set((tmp_path / "prepared").iterdir()) == {folders[24, 16], folders[24, 14]}
    for sample in samples:
        held.get(sample.image, never)


def test_who_has_a_list_open_keeps_it_when_it_is_deleted(store: Store, samples: list[Sample], tmp_path: Path) -> None:
    prepared = opened(store, samples)
    made(prepared, samples[:3])
    shutil.rmtree(tmp_path / "prepared")
    made(prepared, samples)
    for sample in samples:
        prepared.get(sample.image, never)


def test_nothing_is_kept_without_room(samples: list[Sample], tmp_path: Path) -> None:
    made(opened(Store(tmp_path / "prepared", 0), samples), samples)
    assert not (tmp_path / "prepared").exists()


def test_a_folder_that_cannot_be_used_is_done_without(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("a file")
    made(opened(Store(tmp_path / "prepared", LARGE), samples), samples)


def test_a_full_disk_is_done_without(store: Store, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    prepared = opened(store, samples)
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        made(prepared, samples)
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", lambda *given: 5)
        made(prepared, samples)
    made(prepared, samples)
    for sample in samples:
        prepared.get(sample.image, never)


def test_a_disk_that_is_really_full(samples: list[Sample], small_disk: Path) -> None:
    prepared = opened(Store(small_disk / "prepared", LARGE), samples, (400, 300))
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 5 * PAGE))
    made(prepared, samples, (400, 300))


def test_another_process_opens_the_files_anew(store: Store, samples: list[Sample]) -> None:
    prepared = opened(store, samples)
    made(prepared, samples)
    copy = pickle.loads(pickle.dumps(prepared))
    for sample in samples:
        assert torch.equal(copy.get(sample.image, never), pixels(sample))


def make_all(store: Store, samples: list[Sample], kill_at: int | None) -> None:
    """Prepare all images, again and again from nothing; killed before the last bytes of an image are checked."""
    if kill_at is not None:
        written, real = [], os.pwrite

        def pwrite(file: int, data: memoryview, start: int) -> int:
            done = real(file, data[: len(data) // 2] if len(written) == kill_at else data, start)
            if len(data) > 8:
                written.append(start)
            if len(written) > kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        os.pwrite = pwrite
    made(opened(store, samples), samples)


@pytest.mark.processes
def test_processes_that_prepare_at_once_and_are_killed(store: Store, samples: list[Sample], tmp_path: Path) -> None:
    plans = [0, 2, None, 5, None]
    processes = [forkserver().Process(target=make_all, args=(store, samples, plan)) for plan in plans]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    # One that found all images made wrote none, and was not killed.
    assert {process.exitcode for process in processes} <= {0, -signal.SIGKILL}
    again = opened(store, samples)
    for sample in samples:
        assert torch.equal(again.get(sample.image, never), pixels(sample))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_the_same(store: Store, samples: list[Sample], workers: int) -> None:
    """In the first epoch, in which the workers prepare, and after it."""
    order = TrainingOrder(len(samples), 3, 3, seed=5)
    augmentation = Augmentation(flip=True, jitter=0.3)
    plain, prepared = (
        Images(samples, SIZE, prepared=images).augmented(augmentation)
        for images in (Store(store.folder, 0).images([], SIZE), opened(store, samples))
    )
    pairs = zip(
        *(training_loader(one, order, workers=workers, pin_memory=False) for one in (plain, prepared)), strict=True
    )
    for one, other in pairs:
        assert torch.equal(one.weak, other.weak)
        assert torch.equal(one.strong, other.strong)
    again = opened(store, samples)
    for sample in samples:
        again.get(sample.image, never)


def test_digests_can_be_those_of_a_memory(samples: list[Sample], tmp_path: Path) -> None:
    asked = []

    def remembered(files: list[Path]) -> dict[Path, str]:
        asked.append(list(files))
        return {file: digest(file) for file in files}

    opened(Store(tmp_path / "prepared", LARGE, remembered), samples)  # type: ignore[arg-type]
    assert asked == [[sample.image for sample in samples]]
