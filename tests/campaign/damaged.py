"""Damaged bytes in every kind of file: the next command makes the right bits, or says in one line what is damaged."""

import random
import shutil
import time
from functools import cache
from pathlib import Path

from tests.campaign import trial as shared
from tests.campaign.mutation import damage
from tests.campaign.trial import (
    REFUSED,
    RIGHT,
    WRONG,
    Command,
    FailedError,
    Result,
    adapted,
    check_nothing_left,
    check_results,
    copy_of,
    end,
    folder_of,
    refusal,
    reproduced,
    results,
    run,
    stage,
)

READ_BY = {
    "runs/source/model.safetensors": ("align",),
    "runs/align/model.safetensors": ("dump", "--round", "r01"),
    "runs/dump/r01/*/*": ("teach", "--round", "r01"),
    "runs/dump/r01/table.json": ("teach", "--round", "r01"),
    "runs/teach/r02/model.safetensors": ("split",),
    "runs/split/**/*.*": ("propagate",),
    "runs/split/ranking.json": ("propagate",),
    "runs/propagate/model.safetensors": ("evaluate",),
    "data/source/labels/*": ("source",),
    "data/source/images/*": ("source",),
    "data/target/images/*": ("align",),
    "data/source/classes.yaml": ("source",),
    "params.yaml": ("align",),
    "mlflow.db": ("align",),
}
"""Files, and a stage that reads them."""

OF_USERS = ("data/", "params.yaml")
"""Files without a checksum that any program may write: where they remain readable, they are simply others."""


def trial(seed: int, folder: Path) -> Result:
    rng = random.Random(seed)
    choice = rng.random()
    if choice < 0.2:
        return of_state(rng, folder)
    pattern, arguments = rng.choice(list(READ_BY.items()))
    project = copy_of(adapted(), folder)
    expected = results(project)
    path = rng.choice([path for path in sorted(project.glob(pattern)) if path.is_file()])
    name = str(path.relative_to(project))
    shutil.rmtree(project / folder_of(arguments))
    return judge(rng, project, path, arguments, {} if name.startswith(OF_USERS) else expected)


def of_state(rng: random.Random, folder: Path) -> Result:
    """The training state of a stage that was killed."""
    project = copy_of(interrupted(), folder)
    (path,) = (project / ".atp/state").glob("propagate-*")
    return judge(rng, project, path, ("propagate",), results(adapted()))


@cache
def interrupted() -> Path:
    """The tiny project with ``propagate`` killed after it has saved a state; not to be changed."""
    project = shared.place / "interrupted"
    while not list((project / ".atp/state").glob("[!.]*")):
        shutil.rmtree(project, ignore_errors=True)
        copy_of(adapted(), project)
        shutil.rmtree(project / "runs/propagate")
        command = Command(project, ("-m", "atp.stages", "propagate"))
        while not list((project / ".atp/state").glob("[!.]*")) and not command.ended():
            time.sleep(0.001)
        end(project)
    return project


def judge(
    rng: random.Random, project: Path, path: Path, arguments: tuple[str, ...], expected: dict[str, bytes]
) -> Result:
    """Damage a file and run a stage.

    Args:
        expected: files that the stage must not make differently; those that it has not made are not looked at.
    """
    path.write_bytes(damage(rng, path.read_bytes()))
    try:
        return look(project, path, arguments, expected)
    except FailedError as failed:
        raise FailedError(failed.args[0], f"{path.relative_to(project)} damaged: {failed.args[1]}") from failed


def look(project: Path, path: Path, arguments: tuple[str, ...], expected: dict[str, bytes]) -> Result:
    made = folder_of(arguments)
    done = stage(project, *arguments)
    if done.code:
        refusal(done, path.name, "MLflow", "params.yaml")
        if (project / made).exists():
            raise FailedError(WRONG, f"refused {path.name}, and {made} is there")
        check_nothing_left(project, states=False)
        return Result(REFUSED)
    made_before = {name: content for name, content in expected.items() if Path(name).is_relative_to(made)}
    check_results(project, made_before, headers=False)
    check_nothing_left(project)
    return Result(RIGHT)


def of_dvc(seed: int, folder: Path) -> Result:
    """``dvc.lock`` or a file of DVC's cache; the results are fetched from it, or made again."""
    rng = random.Random(seed)
    clone = copy_of(reproduced(), folder)
    expected = results(clone)
    cached = [path for path in sorted((clone / ".dvc/cache").rglob("*")) if path.is_file()]
    path = rng.choice([clone / "dvc.lock", *rng.choices(cached, k=3)])
    path.chmod(0o644)
    path.write_bytes(damage(rng, path.read_bytes()))
    gone = rng.choice(("source", "align", "dump", "teach"))
    shutil.rmtree(clone / "runs" / gone)
    done = run(clone, "-m", "dvc", "repro", "propagate", timeout_s=300)
    if done.code:
        # DVC's own words.
        if not [line for line in done.output.splitlines() if line.startswith("ERROR")]:
            raise FailedError(WRONG, f"exit {done.code}: {done.output[-1500:]}")
        return Result(REFUSED)
    check_results(clone, expected)
    check_nothing_left(clone)
    return Result(RIGHT)
