"""Bad input ends a stage with one clear line and exit code 2: no traceback, nothing lost, nothing half-written."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from tests import warm
from tests.stages.launch import RunStage, set_params


def no_images(project: Path) -> None:
    shutil.rmtree(project / "data/source/images")
    (project / "data/source/images").mkdir()


def unreadable_image(project: Path) -> None:
    (project / "data/source/images/03.png").write_bytes(b"no image")


def cut_image(project: Path) -> None:
    path = project / "data/source/images/03.png"
    path.write_bytes(path.read_bytes()[:-200])


def label_out_of_range(project: Path) -> None:
    Image.new("L", (32, 24), 7).save(project / "data/source/labels/03.png")


def sizes_differ(project: Path) -> None:
    Image.new("L", (32, 25), 1).save(project / "data/source/labels/03.png")


def no_label(project: Path) -> None:
    (project / "data/source/labels/03.png").unlink()


def unknown_key(project: Path) -> None:
    set_params(project, "source", epoch=3)


def wrong_type(project: Path) -> None:
    set_params(project, "source", epochs="many")


def integer_rounds(project: Path) -> None:
    yaml = YAML(typ="safe")
    tree = yaml.load(project / "params.yaml")
    tree["rounds"] = {1: {"model": "runs/align"}}
    yaml.dump(tree, project / "params.yaml")


def too_many_classes(project: Path) -> None:
    from atp.models.network import NetworkConfig, build_network

    config = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=5)
    torch.save(build_network(config).state_dict(), project / "data/source/model.pth")
    set_params(project, "source", checkpoint="data/source/model.pth")


class Payload:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pickle-was-here",)


def needs_unpickling(project: Path) -> None:
    torch.save({"state_dict": Payload()}, project / "data/source/model.pth")
    set_params(project, "source", checkpoint="data/source/model.pth")


def no_such_device(project: Path) -> None:
    set_params(project, "runtime", device="cuda:77")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_images, "data/source/images: no images here"),
        (unreadable_image, "data/source/images/03.png: cannot be read as an image"),
        (cut_image, "data/source/images/03.png: cannot be read as an image"),
        (label_out_of_range, "data/source/labels/03.png: label value 7 out of range (0..2 or 255)"),
        (sizes_differ, "data/source/labels/03.png: label is 32x25 but its image data/source/images/03.png is 32x24"),
        (no_label, "data/source/images/03.png: its label data/source/labels/03.png does not exist"),
        (unknown_key, "params.yaml: source.epoch: unknown key; is it epochs?"),
        (wrong_type, "params.yaml: source.epochs: must be a whole number, not 'many'"),
        (integer_rounds, "params.yaml: rounds.1: DVC silently drops keys that are not words; rename it to r01"),
        (too_many_classes, "more classes in the checkpoint (5) than in the data (3)"),
        (
            needs_unpickling,
            "data/source/model.pth: contains Python objects, and unpickling them can execute code",
        ),
    ],
)
def test_source_refuses(project: Path, run_stage: RunStage, spoil: Callable[[Path], None], message: str) -> None:
    # As params.yaml has it: what a worker meets must be told as well.
    set_params(project, "runtime", workers=1)
    spoil(project)
    ended = run_stage(project, "source")
    assert ended.code == 2, ended.output
    (line,) = [line for line in ended.output.splitlines() if "error" in line.lower()]
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in ended.output
    assert not (project / "runs/source").exists()
    assert not (project / "pickle-was-here").exists()


def test_a_round_that_params_do_not_have(project: Path, run_stage: RunStage) -> None:
    ended = run_stage(project, "teach", "--round", "r07")
    assert ended.code == 2
    assert "error: params.yaml: rounds has no r07; it has r01, r02" in ended.output


def test_a_stage_before_its_time(project: Path, run_stage: RunStage) -> None:
    ended = run_stage(project, "align")
    assert ended.code == 2
    assert "error: runs/source" in ended.output


@pytest.mark.parametrize("stage", ["source", "align", "split", "propagate", "evaluate"])
def test_data_that_are_not_imported_yet(project: Path, run_stage: RunStage, stage: str) -> None:
    shutil.rmtree(project / "data")
    (project / "data.dvc").touch()
    ended = run_stage(project, stage)
    assert ended.code == 2
    assert ended.output == "error: data: not imported yet; run dvc repro data.dvc\n"


def test_a_full_disk_while_dumping(adapted: Path, tmp_path: Path) -> None:
    """On a small tmpfs; what was labelled before stays, and with space the stage goes on to the same result."""
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    shutil.rmtree(project / "runs/dump/r01")
    small = project / ".atp/state"
    shutil.rmtree(small)
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    command = ["-m", "atp.stages.dump", "--round", "r01"]
    try:
        full = warm.run(command, project, dict(os.environ))
        assert full.returncode == 2, full.stderr
        assert "the disk is full" in full.stderr
        assert "Traceback" not in full.stderr
        assert not (project / "runs/dump/r01").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        again = warm.run(command, project, dict(os.environ))
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)
    for name in ("table.json", "positives/05.png", "negatives/05.npy.zst"):
        assert (project / "runs/dump/r01" / name).read_bytes() == (adapted / "runs/dump/r01" / name).read_bytes()


@pytest.mark.parametrize(
    "ranking", [b"\xdb", b"[]", b'{"easy": [[]], "hard": ["00"]}', b'{"easy": ["00"], "hard": ["00"]}']
)
def test_a_damaged_ranking(adapted: Path, tmp_path: Path, run_stage: RunStage, ranking: bytes) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    shutil.rmtree(project / "runs/propagate")
    (project / "runs/split/ranking.json").write_bytes(ranking)
    ended = run_stage(project, "propagate")
    assert ended.code == 2
    assert ended.output.endswith(
        "error: runs/split/ranking.json: damaged or truncated; delete it and run the split stage again\n"
    )
