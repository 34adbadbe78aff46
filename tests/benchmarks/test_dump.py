"""What the methods of ``benchmarks/dump.py`` compute is the same, so that their times can be compared."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from atp.pseudo_labels.store import PseudoLabelStore

SIZE, IMAGES = (128, 64), 3
NAMES = [f"{index:05d}" for index in range(IMAGES)]


@pytest.fixture
def dump(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("dump")


@pytest.fixture
def store(dump: ModuleType, tmp_path: Path) -> PseudoLabelStore:
    (tmp_path / "atp").mkdir()
    dump.dump_atp(tmp_path / "atp", IMAGES, SIZE)
    return PseudoLabelStore(tmp_path / "atp/labels")


def masks(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{name}.png")) for name in NAMES])


def test_arrays_write_atps_masks(dump: ModuleType, store: PseudoLabelStore, tmp_path: Path) -> None:
    measured = dump.dump_arrays(tmp_path, IMAGES, SIZE)
    exact, ours = masks(tmp_path), np.stack([store.positive(name).numpy() for name in NAMES])
    differ = exact != ours
    # ATP's threshold is the lower edge of a bin, so that it keeps a few pixels more, and never another class.
    assert (exact[differ] == 255).all()
    assert differ.mean() < 0.005
    # Of a class with n pixels, the smallest share that is at least K exceeds it by less than 1 / n.
    assert 0 <= measured["excess"] < 0.2


def test_arrays_all_write_atps_negatives_and_entropies(
    dump: ModuleType, store: PseudoLabelStore, tmp_path: Path
) -> None:
    dump.dump_arrays(tmp_path, IMAGES, SIZE, all_=True)
    entropies = json.loads((tmp_path / "entropies.json").read_text())
    for name in NAMES:
        bits = np.unpackbits(np.load(tmp_path / f"{name}.npz")["arr_0"], axis=-1, count=SIZE[0], bitorder="little")
        assert np.array_equal(bits.view(np.bool_), store.negatives(name).numpy())
        assert entropies[name] == pytest.approx(store.entropies[name], abs=1e-6)


@pytest.mark.parametrize("axis", [0, 2])
def test_crst_keeps_about_as_much(dump: ModuleType, store: PseudoLabelStore, tmp_path: Path, axis: int) -> None:
    dump.dump_crst(tmp_path, IMAGES, SIZE, axis)
    # Its thresholds are those of every fourth pixel.
    assert (masks(tmp_path) != 255).mean() == pytest.approx(store.table["coverage"], abs=0.03)


def test_ratios_are_those_of_one_turn(dump: ModuleType) -> None:
    def measured(cpu: float) -> dict[str, float]:
        return {"outside": 0.1, "outside_cpu": cpu, "final": 2000, "peak": 3000}

    runs = [
        {"arrays": measured(0.01), "arrays, all": measured(0.02), "ATP": measured(0.01)},
        {"arrays": measured(0.1), "arrays, all": measured(0.2), "ATP": measured(0.2)},
    ]
    all_, less = "positive and negative labels, entropies", "positive labels"
    ratios = ["1.50 (1.00-2.00)", "0.75 (0.50-1.00)"]
    assert dump.row("ATP", runs) == ["ATP", all_, "100.0", "105.0", *ratios, "2.0", "3.0"]
    assert dump.row("arrays", runs)[:2] == ["arrays", less]
    assert dump.row("arrays", runs)[4:6] == ["1.00 (1.00-1.00)", ""], "not against a method that writes more"


def test_other_resolutions_of_the_codes(dump: ModuleType) -> None:
    logits = [dump.scene(index, SIZE) for index in range(IMAGES)]
    as_is = dump.coded(logits)
    with dump.mantissa_bits(8):
        assert dump.coded(logits) == as_is, "8 bits are ATP's own"
    with dump.mantissa_bits(4):
        coarse = dump.coded(logits)
    assert coarse[0] > as_is[0]
    assert coarse[1] < as_is[1]
    assert dump.coded(logits) == as_is


def test_formats_hold_what_was_written(dump: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    dump.containers((64, 32), 1)
    dump.wrappers((64, 32), 1)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 14 + 2 + 6
