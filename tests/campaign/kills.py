"""Kills of random processes at random moments; the same command continues, and the result has the same bits."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.campaign.trial import (
    RIGHT,
    STUCK,
    WRONG,
    Command,
    FailedError,
    Result,
    adapted,
    check_nothing_left,
    check_results,
    copy_of,
    folder_of,
    processes,
    reproduced,
    results,
)
from tests.stages.launch import ORDER

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST_TRIES = 40


def trial(seed: int, folder: Path) -> Result:
    """Two or three stages in a row, three to six kills."""
    rng = random.Random(seed)
    project = copy_of(adapted(), folder)
    expected = results(project)
    first = rng.randrange(len(ORDER) - 1)
    stages = ORDER[first : first + rng.choice((2, 3))]
    for each in stages:
        shutil.rmtree(project / folder_of(each))
    kills, left = 0, rng.randint(3, 6)
    for number, each in enumerate(stages):
        wanted = left if number == len(stages) - 1 else rng.randint(0, left)
        kills += until_done(rng, project, ("-m", "atp.stages", *each), wanted)
        left -= wanted
    check_results(project, expected)
    check_nothing_left(project)
    return Result(RIGHT, kills)


def pipeline(seed: int, folder: Path) -> Result:
    """``dvc repro`` of a clone without results, three to eight kills of DVC's, a stage's or any other process."""
    rng = random.Random(seed)
    clone = copy_of(reproduced(), folder)
    expected = results(clone)
    for part in ("runs", ".dvc/cache/runs", ".atp"):
        shutil.rmtree(clone / part, ignore_errors=True)
    for part in ("dvc.lock", "mlflow.db"):
        (clone / part).unlink()
    until = rng.choice(("align", "teach@r01", "propagate"))
    kills = until_done(rng, clone, ("-m", "dvc", "repro", until), rng.randint(3, 8))
    made = {name: content for name, content in expected.items() if (clone / name).exists()}
    if not any(name.startswith(f"runs/{until.partition('@')[0]}/") for name in made):
        raise FailedError(WRONG, f"{until} has no result")
    check_results(clone, made)
    check_nothing_left(clone)
    return Result(RIGHT, kills)


def until_done(rng: random.Random, folder: Path, arguments: tuple[str, ...], wanted: int) -> int:
    """Repeat a command until it succeeds, with so many kills if it runs long enough; returns the number of kills."""
    kills = 0
    for _ in range(MOST_TRIES):
        command = Command(folder, arguments)
        while kills < wanted and not command.ended():
            wait(rng, folder, command.ended)
            killed = kill(rng, folder)
            kills += killed
            if killed and rng.random() < 0.8:
                break
        if command.wait().code == 0:
            return kills
        if kills >= wanted:
            # Whatever the last kill has ended; now it must get through.
            wanted = 0
            done = Command(folder, arguments).wait()
            if done.code:
                raise FailedError(WRONG, f"does not continue, exit {done.code}: {done.output[-1500:]}")
            return kills
    raise FailedError(STUCK, f"not done after {MOST_TRIES} tries")


def wait(rng: random.Random, folder: Path, ended: Callable[[], bool]) -> None:
    """Until a random moment: after some time, or soon after something new is in the folder of states or results."""
    start = time.monotonic()
    delay = rng.choice((0.3, 1.0, 3.0)) * rng.random()
    before, near_write = _written(folder), rng.random() < 0.6
    while not ended() and time.monotonic() - start < (10 if near_write else delay):
        if near_write and _written(folder) != before:
            time.sleep(rng.random() * 0.1)
            return
        time.sleep(0.002)


def _written(folder: Path) -> int:
    return sum(1 for part in ("runs", ".atp/state") for _ in (folder / part).rglob("*"))


def kill(rng: random.Random, folder: Path) -> int:
    """Send a signal to one of the processes in a folder; returns how many."""
    # The one that started the command and waits for it is not part of it.
    those = [process for process in processes(folder) if not _is_asking(process)]
    if not those:
        return 0
    with suppress(psutil.Error):
        rng.choice(sorted(those, key=lambda process: process.pid)).send_signal(rng.choice(SIGNALS))
        return 1
    return 0


def _is_asking(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "-IS" in process.cmdline()
    return True
