"""Hostile files through the real commands: one line or success, in bounded time and memory."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.campaign.mutation import STRUCTURE, mutate
from tests.campaign.trial import REFUSED, RIGHT, WRONG, FailedError, Result, adapted, copy_of, refusal, run

MOST_S, MOST_MB = 60, 1500

# A command, and then how much memory it took at most, with what the process was forked from.
MEASURED = """
import atexit, resource, runpy, sys
from pathlib import Path
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
atexit.register(lambda: Path("peak.txt").write_text(str(peak())))
sys.argv[0] = "atp"
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""

Command = tuple[str, ...]
MODEL, CLASSES = "runs/propagate/model.safetensors", "data/source/classes.yaml"
CONVERT = ("atp.cli", "labels", "convert", "colours", "out", "--classes")
COMMANDS: dict[str, tuple[str, Command]] = {
    "image of predict": ("data/test/images/00.png", ("atp.cli", "predict", "{}", "out", "--model", "runs/propagate")),
    "model of predict": (MODEL, ("atp.cli", "predict", "data/test/images", "out", "--model", "{}")),
    "model of export": ("runs/propagate/model.safetensors", ("atp.cli", "export", "out.pth", "--model", "{}")),
    "model of doctor": ("runs/source/model.safetensors", ("atp.cli", "doctor")),
    "classes of labels": (CLASSES, (*CONVERT, "{}")),
    "colours of labels": ("colours/0.png", (*CONVERT, CLASSES)),
    "parameters": ("params.yaml", ("atp.cli", "doctor")),
    "classes": ("data/source/classes.yaml", ("atp.cli", "doctor")),
    "label": ("data/source/labels/00.png", ("atp.cli", "doctor")),
    "figures of report": ("runs/evaluate/metrics.json", ("atp.cli", "report")),
    "figures per image": ("runs/evaluate/images.json", ("atp.cli", "report")),
    "evidence": ("runs/propagate/evidence.json", ("atp.cli", "report")),
    "choice": ("runs/align/evidence.json", ("atp.cli", "select")),
    "table of labels": ("runs/dump/r01/table.json", ("atp.stages", "teach", "--round", "r01")),
    "negative labels": ("runs/dump/r01/**/*.zst", ("atp.stages", "teach", "--round", "r01")),
    "pseudo label": ("runs/dump/r01/**/*.png", ("atp.stages", "teach", "--round", "r01")),
    "ranking": ("runs/split/ranking.json", ("atp.stages", "propagate")),
    "model of a stage": ("runs/source/model.safetensors", ("atp.stages", "align")),
}
"""What is hostile: a file by a pattern, and the command, with {} for the file's name."""


def trial(seed: int, folder: Path) -> Result:
    rng = random.Random(seed)
    name = rng.choice(list(COMMANDS))
    file, command = COMMANDS[name]
    project = copy_of(adapted(), folder)
    (project / "colours").mkdir()
    with Image.open(project / "data/source/labels/00.png") as labels:
        labels.convert("RGB").save(project / "colours/0.png")
    path = rng.choice(sorted(project.glob(file)))
    if name == "image of predict" and rng.random() < 0.4:
        path = as_other_format(rng, path)
    how: Callable[[random.Random, bytes], bytes] = mutate
    if path.suffix in STRUCTURE and rng.random() < 0.7:
        how = STRUCTURE[path.suffix]
    path.write_bytes(how(rng, path.read_bytes()))
    if command[0] == "atp.stages":
        shutil.rmtree(project / "runs" / command[1] / (command[3] if command[2:] else ""))
    # In a folder with the file's own name, such as a model's.
    given = [part.format(path.relative_to(project)) for part in command]
    done = run(project, "-c", MEASURED, *given, timeout_s=MOST_S)
    measured = project / "peak.txt"
    if measured.exists() and int(measured.read_text()) > MOST_MB:
        raise FailedError(WRONG, f"{name}: {measured.read_text()} MB")
    if (project / "hacked").exists():
        raise FailedError(WRONG, f"{name}: ran what it read")
    if not done.code:
        return Result(RIGHT)
    if command[1] != "doctor":
        refusal(done)
    elif done.code < 0 or "error" not in done.output:
        raise FailedError(WRONG, f"{name}: exit {done.code}: {done.output[-1500:]}")
    return Result(REFUSED)


def as_other_format(rng: random.Random, path: Path) -> Path:
    """The image as a file of another format."""
    other = path.with_suffix(rng.choice((".jpg", ".tif", ".webp", ".bmp")))
    with Image.open(path) as image:
        image.save(other, **({"progressive": True} if rng.random() < 0.5 and other.suffix == ".jpg" else {}))
    path.unlink()
    return other
