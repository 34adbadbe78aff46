"""Disks that are full, read-only or others, as small file systems in mounts of a process of its own."""

import json
import os
import random
import runpy
import shutil
import sys
import traceback
from pathlib import Path

from atp.runner import mounts
from tests.campaign.trial import (
    REFUSED,
    RIGHT,
    TRACE,
    TRACEBACK,
    WRONG,
    Done,
    FailedError,
    Result,
    adapted,
    check_nothing_left,
    check_results,
    copy_of,
    folder_of,
    refusal,
    results,
    run,
)
from tests.clone import ROOT
from tests.stages.launch import ORDER

PARTS = ("runs", ".atp", "store")
"""What is on the other disk: results, states and locks, or MLflow's database."""

FAULTS = ("full", "full", "read-only", "another")
_SMALL, _REMOUNT_READ_ONLY, _REMOUNT = b"size=16m", 32 | 1, 32


def trial(seed: int, folder: Path) -> Result:
    """A stage on such a disk, and again when there is space."""
    rng = random.Random(seed)
    arguments, part, fault = rng.choice(ORDER), rng.choice(PARTS), rng.choice(FAULTS)
    if not mounts.possible():
        return Result(RIGHT, 0, "no mounts of its own on this system: no trials of disks")
    project = copy_of(adapted(), folder)
    shutil.rmtree(project / folder_of(arguments))
    (project / "store").mkdir()
    free_kb = rng.choice((0, 40, 150, 600, 2000))
    given = json.dumps([part, fault, free_kb, arguments])
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{project}/store/mlflow.db", "PYTHONPATH": str(ROOT)}
    run(project, "-c", "from tests.campaign.disks import inside; inside()", given, environment=store)
    first, left, second = json.loads((project / "said.json").read_text())
    what = f"{arguments[0]}, {part} {fault}, {free_kb} kB: "
    for done in (Done(*first), Done(*second)):
        if TRACE in done.output:
            raise FailedError(TRACEBACK, what + done.output[-3000:])
    if second[0] or left:
        raise FailedError(WRONG, f"{what}left {left}, then exit {second[0]}: {second[1][-1500:]}")
    if first[0]:
        refusal(Done(*first), f"{part}/")
        if first[0] != 2 or fault == "another":
            raise FailedError(WRONG, f"{what}exit {first[0]}: {first[1]}")
    check_results(project / "made", results(adapted()))
    check_nothing_left(project / "made")
    return Result(REFUSED if first[0] else RIGHT)


def inside() -> None:
    """Run a stage twice, the second time without the fault; write what it said and what it left."""
    part, fault, free_kb, arguments = json.loads(sys.argv[1])
    mounts._unshare()
    disk = Path(part)
    shutil.copytree(disk, "before", dirs_exist_ok=True)
    mounts._mount(b"none", disk, b"tmpfs", 0, _SMALL)
    shutil.copytree("before", disk, dirs_exist_ok=True)
    there = set(disk.rglob("*"))
    filled = disk / "filled"
    if fault == "full":
        filled.write_bytes(bytes(shutil.disk_usage(disk).free - free_kb * 1024))
    if fault == "read-only":
        mounts._mount(b"none", disk, None, _REMOUNT_READ_ONLY)
    first = _stage(arguments)
    made = set(disk.rglob("*")) - there - {filled}
    hidden = [str(path) for path in made if path.name.startswith(".") or path.suffix == ".tmp"]
    if fault == "read-only":
        mounts._mount(b"none", disk, None, _REMOUNT, _SMALL)
    filled.unlink(missing_ok=True)
    second = _stage(arguments)
    for name in ("runs", ".atp"):
        shutil.copytree(name, Path("made", name))
    Path("said.json").write_text(json.dumps([first, hidden, second]))


def _stage(arguments: list[str]) -> tuple[int, str]:
    child = os.fork()
    if not child:
        with Path("said.txt").open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 1
        try:
            sys.argv[1:] = arguments
            runpy.run_module("atp.stages", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, Path("said.txt").read_text()
