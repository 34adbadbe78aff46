"""Ways in which code in an adaptation stage could try to read what is sealed."""

import os
import shutil
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from atp.data.tensors import read_image
from atp.runner import mounts
from tests.stages.launch import RunStage

SECRET = "data/source/images/00.png"

NETWORK = """
import ctypes, mmap, os, subprocess
from pathlib import Path
import numpy as np, torch, torchvision
from torch import nn

SECRET = "data/source/images/00.png"

def by_descriptor():
    folder = os.open("data", os.O_RDONLY)
    return os.read(os.open("source/images/00.png", os.O_RDONLY, dir_fd=folder), 4)

def by_c():
    libc = ctypes.CDLL(None)
    found, text = libc.open(SECRET.encode(), 0), ctypes.create_string_buffer(4)
    return text.raw if libc.read(found, text, 4) == 4 else b""

def by_program(*command):
    return subprocess.run(command, capture_output=True).stdout

def by_torch():
    return torch.from_file(SECRET, size=4, dtype=torch.uint8).numpy().tobytes()

WAYS = {
    "its path": lambda: Path(SECRET).read_bytes(),
    "a detour": lambda: Path("./data/source/../source/images/00.png").read_bytes(),
    "os.open": lambda: os.read(os.open(SECRET, os.O_RDONLY), 4),
    "a link to the file": lambda: Path("data/target/link.png").read_bytes(),
    "a link to the folder": lambda: Path("linked/00.png").read_bytes(),
    "the process's folder": lambda: Path("/proc/self/cwd", SECRET).read_bytes(),
    "the process's root": lambda: Path("/proc/self/root", Path.cwd().relative_to("/"), SECRET).read_bytes(),
    "numpy.fromfile": lambda: np.fromfile(SECRET, np.uint8).tobytes(),
    "a folder's descriptor": by_descriptor,
    "C": by_c,
    "torch.from_file": by_torch,
    "torchvision.io": lambda: torchvision.io.read_file(SECRET).numpy().tobytes(),
    "a program": lambda: by_program("cat", SECRET),
    "a shell": lambda: os.popen(f"cat {SECRET} | base64").read().encode(),
    "the prepared images": lambda: Path(".atp/prepared/sealed/k/pixels").read_bytes(),
    "the prepared images, by C": lambda: by_program("sh", "-c", "cat .atp/prepared/sealed/k/pixels"),
    "what was prepared of a target that is one no more": lambda: Path(".atp/prepared/0123/k/pixels").read_bytes(),
    "DVC's cache": lambda: Path(".dvc/cache/files/md5/ab/cd").read_bytes(),
    "the parent's root": lambda: by_program("cat", f"/proc/{os.getppid()}/root/{Path.cwd()}/{SECRET}"),
    "unmounting": lambda: by_program("sh", "-c", f"umount data/source data/source/images; cat {SECRET}"),
    "other namespaces": lambda: by_program("unshare", "-Urm", "sh", "-c", f"umount data/source; cat {SECRET}"),
    "a hard link made before": lambda: Path("hard.png").read_bytes(),
}

def make():
    for name, way in WAYS.items():
        try:
            found = way()
        except Exception as error:
            found = b""
        print(f"{name}: {'read' if found else 'not read'}")
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(features, nn.Conv2d(8, 3, 1))
"""

PYTHON = {
    *("its path", "a detour", "os.open", "a link to the file", "a link to the folder", "the process's folder"),
    *("the process's root", "numpy.fromfile", "the prepared images"),
    "what was prepared of a target that is one no more",
}
"""Refused by Python, on every system."""

ALWAYS_READ = {"a hard link made before"}


def test_each_way_is_closed_where_the_system_can_hide_files(
    template: Path, tmp_path: Path, run_stage: RunStage
) -> None:
    """Of data that are themselves a link."""
    project = Path(shutil.copytree(template, tmp_path / "project"))
    (project / "data").rename(tmp_path / "elsewhere")
    (project / "data").symlink_to(tmp_path / "elsewhere")
    (project / "seal.py").write_text(NETWORK)
    yaml = YAML(typ="safe")
    tree = yaml.load(project / "params.yaml")
    tree["model"] = {"factory": "seal:make", "classifier": "1", "code": "seal.py"}
    tree["align"]["epochs"] = 1
    yaml.dump(tree, project / "params.yaml")
    secret = project / SECRET
    (project / "data/target/link.png").symlink_to(secret)
    (project / "linked").symlink_to(secret.parent)
    os.link(secret, project / "hard.png")
    for prepared in ("0123", "sealed"):
        pixels = project / ".atp/prepared" / prepared / "k/pixels"
        pixels.parent.mkdir(parents=True)
        pixels.write_bytes(b"were")
    cached = project / ".dvc/cache/files/md5/ab/cd"
    cached.parent.mkdir(parents=True)
    shutil.copyfile(secret, cached)
    done = {}
    for stage in ("source", "align"):
        ended = run_stage(project, stage)
        assert ended.code == 0, ended.output
        done[stage] = dict(
            line.split(": ") for line in ended.output.splitlines() if line.endswith(("not read", ": read"))
        )
    read = {stage: {way for way, told in told.items() if told == "read"} for stage, told in done.items()}
    # What nothing forbids, so that the other half shows something.
    assert read["source"] >= PYTHON
    assert {"C", "torch.from_file", "a program", "DVC's cache", "the prepared images, by C"} <= read["source"]
    assert not read["align"] & PYTHON
    if mounts.possible():
        assert read["align"] == ALWAYS_READ


def test_prepared_images_of_source_and_target_are_kept_apart(adapted: Path) -> None:
    """What a sealed stage may open has nothing but the target's images."""
    sealed = adapted / ".atp/prepared/sealed"
    (target,) = [folder for folder in sealed.parent.iterdir() if folder != sealed]
    # The source's images and labels, and the test images; the validation images.
    assert len(list(sealed.iterdir())) == 4
    (pixels,) = target.glob("*/pixels")
    kept = np.fromfile(pixels, np.uint8)
    length = 3 * 24 * 32
    for index in range(8):
        place = index * -(-length // 4096) * 4096
        image = read_image(adapted / f"data/target/images/{index:02}.png", (32, 24))
        assert np.array_equal(kept[place : place + length], image.numpy().ravel())
