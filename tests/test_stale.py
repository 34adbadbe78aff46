"""What makes a stage's result stale: what decides it, and nothing else. Asked of DVC, in a clone after `dvc repro`."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

TRAINED = {"source", "align", "teach", "propagate"}
LABELLED = {"dump", "split"}
ALL = TRAINED | LABELLED | {"evaluate"}

DEFAULTS: list[tuple[str, str, str, set[str]]] = [
    ("training", "momentum: Share = 0.9", "momentum: Share = 0.8", TRAINED),
    ("training", "weight_decay: NonNegative = 5e-4", "weight_decay: NonNegative = 1e-4", TRAINED),
    ("training", "power: NonNegative = 0.9", "power: NonNegative = 1.0", TRAINED),
    ("training", "channels_last: Flag = True", "channels_last: Flag = False", ALL),
    ("training", "prepared_mb: Whole = 8192", "prepared_mb: Whole = 1024", set()),
    ("data", "jitter: Share = 0.0", "jitter: Share = 0.1", TRAINED),
    ("evaluation", "images: Whole = 64", "images: Whole = 32", TRAINED - {"source"}),
    ("method", "gamma: NonNegative = 3.0", "gamma: NonNegative = 2.0", {"align"}),
    ("method", 'diversity_grad: Literal["detach", "full"] = "detach"', 'diversity_grad: str = "full"', {"align"}),
    ("method", "negative_threshold: Share = 0.05", "negative_threshold: Share = 0.02", {*LABELLED, "teach"}),
    ("method", "negative_cap: Flag = True", "negative_cap: Flag = False", {*LABELLED, "teach"}),
    ("method", "] = [1.0]", "] = [1.5]", LABELLED),
    ("method", "class_mix: Flag = False", "class_mix: Flag = True", {"teach"}),
    ("method", "rounds_per_schedule: Count = 1", "rounds_per_schedule: Count = 2", {"teach"}),
    ("method", "easy_ratio: Decay = 0.5", "easy_ratio: Decay = 0.3", {"split"}),
    ("method", "confidence: Share = 0.968", "confidence: Share = 0.9", {"propagate"}),
    ("black_box", "] = 4\n", "] = 5\n", set()),
]
"""Room, its default, another one, and the stages that use it."""

LINES: list[tuple[str, set[str]]] = [
    ("method/source.py", {"source"}),
    ("method/align.py", {"align"}),
    ("method/dump.py", LABELLED),
    ("method/teach.py", {"teach"}),
    ("method/split.py", {"split"}),
    ("method/propagate.py", {"propagate"}),
    ("mixing/class_mix.py", {"propagate"}),
    ("losses/diversity.py", {"align"}),
    ("losses/pseudo_label.py", {"teach", "propagate"}),
    # Also of a baseline, mic.
    ("losses/consistency.py", {"align", "propagate"}),
    ("stages/teach.py", {"teach"}),
    ("stages/judged.py", TRAINED - {"source"}),
    # Has how a stage's seed is derived.
    ("training/run.py", ALL),
    ("evaluation/evaluate.py", {"evaluate"}),
    ("report/page.py", {"report"}),
    # Of no stage of this pipeline's: other methods, data sets, and what shows, tracks or starts.
    ("method/distill.py", set()),
    ("baselines/tent.py", set()),
    ("datasets/streets/things.py", set()),
    ("mixing/cut_mix.py", set()),
    ("doctor.py", set()),
    ("checks/images.py", set()),
    ("runner/tracking.py", set()),
    ("registry/card.py", set()),
    ("studies/contents.py", set()),
    ("cli.py", set()),
]
"""File, and the stages that run it."""


@pytest.fixture(scope="module")
def clone(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reproduced clone that tests here change and change back."""
    return Path(shutil.copytree(reproduced, tmp_path_factory.mktemp("stale") / "clone", symlinks=True))


def stale(clone: Path) -> set[str]:
    """Stages with a changed dependency of their own; those of several rounds once."""
    with contextlib.chdir(clone), Repo() as repo:
        status = repo.status(targets="dvc.yaml")
    return {name.partition("@")[0] for name, reasons in status.items() if reasons != ["always changed"]}


@contextlib.contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    text = path.read_text()
    assert old in text, f"{path}: nothing to change"
    path.write_text(text.replace(old, new, 1))
    yield
    path.write_text(text)


def test_nothing_is_stale_after_a_run(clone: Path) -> None:
    assert stale(clone) == set()


@pytest.mark.parametrize(("file", "old", "new", "expected"), DEFAULTS)
def test_a_default_makes_those_stale_that_use_it(
    clone: Path, file: str, old: str, new: str, expected: set[str]
) -> None:
    with edited(clone / f"atp/{file}/settings.py", old, new):
        assert stale(clone) == expected


@pytest.mark.parametrize(("file", "expected"), LINES)
def test_a_line_of_code_makes_those_stale_that_run_it(clone: Path, file: str, expected: set[str]) -> None:
    path = clone / "atp" / file
    text = path.read_text()
    path.write_text(text + "\n# Another line.\n")
    try:
        assert stale(clone) == expected
    finally:
        path.write_text(text)


@pytest.mark.parametrize("new", ["null", "{images: data/test/images, labels: data/test/labels}"])
def test_validation_images_make_no_model_stale(clone: Path, new: str) -> None:
    old = "{images: data/validation/images, labels: data/validation/labels}"
    with edited(clone / "params.yaml", old, new):
        # These have the whole section.
        assert stale(clone) == {"evaluate", "report"}


def test_documents_make_none_stale(clone: Path) -> None:
    for path in (clone / "README.md", clone / "flows/adapt.py", *(clone / "docs").rglob("*.md")):
        path.write_text(path.read_text() + "\n")
    assert stale(clone) == set()


def test_only_the_chosen_method_counts(clone: Path) -> None:
    with edited(clone / "params.yaml", "method: method/align", "method: baselines/tent"):
        assert stale(clone) == {"align"}
        with edited(clone / "atp/method/align.py", "import", "import"):
            (clone / "atp/baselines/urma.py").write_text("# Another baseline.\n")
            assert stale(clone) == {"align"}
