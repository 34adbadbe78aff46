"""Dump: which predictions become labels, what is continued, and what each process does."""

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from atp.data.folder import Sample
from atp.data.loading import Images
from atp.errors import InputError
from atp.files import digest
from atp.method.dump import dump
from atp.method.settings import DumpSettings
from atp.pseudo_labels.store import PseudoLabelStore, PseudoLabelWriter, Table
from atp.training.prediction import Predictor
from atp.training.runtime import Runtime
from tests.method.known import CPU, SPACE, Known, drawn, written
from tests.stages.launch import forkserver

NAMES = [f"{index:02}" for index in range(19)]
"""Three chunks: 8, 8 and 3 images."""


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return written(tmp_path / "images", dict(zip(NAMES, drawn(19, 0, 4, 8), strict=True)))


def other() -> Known:
    """Another network than ``Known()``."""
    network = Known()
    with torch.no_grad():
        network.head.weight.copy_(network.head.weight.roll(1, 0) / 2)
    return network


def dumped(folder: Path, samples: list[Sample], runtime: Runtime = CPU, **changes: Any) -> Table | None:
    given: dict[str, Any] = {"networks": [(Known(), 1.0)], "settings": DumpSettings(), **changes}
    return dump(
        target=Images(samples),
        label_space=SPACE,
        runtime=runtime,
        pending=folder / "pending",
        folder=folder / "labels",
        **given,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flip": True},
        {"scales": (1.0, 1.5)},
        {"keep_ratio": 0.3, "negative_threshold": 0.25},
        {"negative_threshold": 0.5, "negative_cap": False},
    ],
    ids=str,
)
def test_labels_are_those_of_the_averaged_predictions(
    tmp_path: Path, samples: list[Sample], settings: dict[str, Any]
) -> None:
    networks = [(Known(), 0.75), (other(), 0.25)]
    section = DumpSettings(**settings)
    dumped(tmp_path, samples, networks=networks, settings=section, extra={"model": "abc"})
    predictor = Predictor(networks, CPU, flip=section.flip, scales=section.scales)
    writer = PseudoLabelWriter(
        tmp_path / "p",
        3,
        negative_threshold=section.negative_threshold,
        keep_ratio=section.keep_ratio,
        negative_cap=section.negative_cap,
    )
    for name, image in zip(NAMES, drawn(19, 0, 4, 8), strict=True):
        writer.add(name, predictor.probabilities(image[None])[0])
    writer.finish(tmp_path / "expected", SPACE, NAMES, {"model": "abc"})
    assert digest(tmp_path / "labels") == digest(tmp_path / "expected")


def test_images_of_any_size_are_read_and_batched_at_that_of_the_data(tmp_path: Path) -> None:
    pixels = {name: drawn(1, index, 4 + index % 2, 8)[0] for index, name in enumerate(NAMES)}
    network = Known()
    table = dump(
        [(network, 1.0)],
        Images(written(tmp_path / "images", pixels), size=(16, 12)),
        DumpSettings(),
        SPACE,
        CPU,
        pending=tmp_path / "pending",
        folder=tmp_path / "labels",
    )
    assert table is not None
    assert {(row["width"], row["height"]) for row in table["images"]} == {(16, 12)}
    assert table["extra"] == {}
    assert [len(call[0]) for call in network.calls] == [8, 8, 3]


def test_what_is_done_is_not_done_again(tmp_path: Path, samples: list[Sample]) -> None:
    """A chunk of which an image is missing is predicted whole, so that the bits are the same; none that is complete."""
    dumped(tmp_path / "whole", samples)
    writer = PseudoLabelWriter(tmp_path / "pending", 3, negative_threshold=0.05, keep_ratio=0.65)
    images = dict(zip(NAMES, drawn(19, 0, 4, 8), strict=True))
    for name in NAMES[:12]:
        writer.add(name, Predictor([(Known(), 1.0)], CPU).probabilities(images[name][None])[0])
    before = (tmp_path / "pending" / "08.pending").stat().st_mtime_ns
    added, network = [], Known()
    with pytest.MonkeyPatch.context() as patch:
        add = PseudoLabelWriter.add
        patch.setattr(PseudoLabelWriter, "add", lambda self, name, p: added.append(name) or add(self, name, p))
        patch.setattr(PseudoLabelWriter, "finish", lambda *args, **named: None)
        dumped(tmp_path, samples, networks=[(network, 1.0)])
    assert added == NAMES[12:]
    assert (tmp_path / "pending" / "08.pending").stat().st_mtime_ns == before
    assert [len(call[0]) for call in network.calls] == [8, 3]
    dumped(tmp_path, samples)
    assert digest(tmp_path / "labels") == digest(tmp_path / "whole/labels")


@dataclass(frozen=True)
class OneOf(Runtime):
    """A process among others that notes what there is when it waits for them."""

    watched: Path = Path()
    waited: list[tuple[int, bool]] = field(default_factory=list)

    def barrier(self) -> None:
        self.waited.append((len(list(self.watched.rglob("*.pending"))), (self.watched / "labels").exists()))


def test_processes_share_the_chunks_and_the_main_one_finishes(tmp_path: Path, samples: list[Sample]) -> None:
    dumped(tmp_path / "alone", samples)
    folder = tmp_path / "shared"
    second, main = (OneOf(torch.device("cpu"), rank=rank, world_size=2, watched=folder) for rank in (1, 0))
    assert dumped(folder, samples, second) is None
    # After its share, the second chunk, and after the main process, which there is none yet to wait for.
    assert second.waited == [(8, False)] * 2
    table = dumped(folder, samples, main)
    assert table is not None
    assert main.waited == [(19, False), (0, True)]
    assert digest(folder / "labels") == digest(tmp_path / "alone/labels")
    assert PseudoLabelStore(folder / "labels").names == tuple(NAMES)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_no_byte(tmp_path: Path, samples: list[Sample], workers: int) -> None:
    dumped(tmp_path / "alone", samples)
    dumped(tmp_path, samples, replace(CPU, workers=workers))
    assert digest(tmp_path / "labels") == digest(tmp_path / "alone/labels")


def test_an_unreadable_image_is_one_line_and_the_images_before_it_are_kept(
    tmp_path: Path, samples: list[Sample]
) -> None:
    # Its header is whole, so that its size is known.
    samples[17].image.write_bytes(samples[17].image.read_bytes()[:50])
    with pytest.raises(InputError, match=r"17\.png: cannot be read as an image"):
        dumped(tmp_path, samples, replace(CPU, workers=2))
    # The first chunk was handed over before the third was needed.
    assert {"00", "07"} <= {path.stem for path in (tmp_path / "pending").glob("*.pending")}
    assert not list((tmp_path / "pending").glob(".*"))


class Killed(Known):
    """Ends its process without notice in a forward pass."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        if len(self.calls) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().scores(images)


@pytest.mark.processes
def test_killed_while_threads_write(tmp_path: Path, samples: list[Sample]) -> None:
    """Whatever they were doing, the next call ends at the same bytes."""
    dumped(tmp_path / "alone", samples)
    for _ in range(2):
        settings = {"runtime": replace(CPU, workers=3), "networks": [(Killed(1), 1.0)]}
        process = forkserver().Process(target=dumped, args=(tmp_path, samples), kwargs=settings)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    dumped(tmp_path, samples, replace(CPU, workers=3))
    assert digest(tmp_path / "labels") == digest(tmp_path / "alone/labels")
    assert not (tmp_path / "pending").exists()


class Counted:
    """In the place of ``Progress``."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.steps = (*given, named), 0
        SHOWN.append(self)

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def advance(self) -> None:
        self.steps += 1


SHOWN: list[Counted] = []


def test_progress_counts_this_processs_images(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atp.method.dump.Progress", Counted)
    SHOWN.clear()
    writer = PseudoLabelWriter(tmp_path / "pending", 3, negative_threshold=0.05, keep_ratio=0.65)
    for name in NAMES[:8]:
        writer.add(name, torch.full((3, 4, 8), 1 / 3))
    dumped(tmp_path, samples, OneOf(torch.device("cpu"), rank=1, world_size=2), name="dump@r01")
    dumped(tmp_path, samples, OneOf(torch.device("cpu"), rank=0, world_size=2))
    shown = [(counted.given, counted.steps) for counted in SHOWN]
    assert shown == [(("dump@r01", 8, 0, {"enabled": False}), 8), (("dump", 11, 8, {"enabled": True}), 3)]
