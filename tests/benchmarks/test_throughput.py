"""``benchmarks/throughput.py`` measures the dump that the pipeline makes."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from atp.data.loading import Images
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.runtime import Runtime


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("throughput")


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_sleeps_and_has_its_labels(throughput: ModuleType, tmp_path: Path, workers: int) -> None:
    samples = throughput.draw(tmp_path / "images", 9, (64, 32))
    device = throughput.Sleeping(throughput.predict((32, 16)), 0.01)
    runtime = Runtime(torch.device("cpu"), workers=workers)
    clock = throughput.dump_once(Images(samples, (32, 16)), device, runtime, tmp_path / "dump")
    assert clock.wall > device.slept >= 0.09
    assert PseudoLabelStore(tmp_path / "dump/labels").names == tuple(sample.name for sample in samples)


def test_every_line_is_printed(
    throughput: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--images", "2", "--size", "64x32", "--read", "32x16", "--forward-ms", "1", "--step-ms", "1"]
    monkeypatch.setattr("sys.argv", ["throughput.py", *small, "--workers", "0"])
    threads = torch.get_num_threads()
    throughput.main()
    torch.set_num_threads(threads)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|") and "---" not in line]
    assert len(rows) == 1 + 3 + 1 + 4
