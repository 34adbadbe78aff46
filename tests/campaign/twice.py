"""Two runs of a stage at once, or one soon after the other: one works, the other is refused or repeats it."""

import random
import shutil
import time
from pathlib import Path

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
    folder_of,
    refusal,
    results,
)
from tests.stages.launch import ORDER


def trial(seed: int, folder: Path) -> Result:
    rng = random.Random(seed)
    project = copy_of(adapted(), folder)
    expected = results(project)
    arguments = rng.choice(ORDER)
    shutil.rmtree(project / folder_of(arguments))
    commands = []
    for _ in range(2):
        commands.append(Command(project, ("-m", "atp.stages", *arguments)))
        time.sleep(rng.choice((0, 0.3, 2)) * rng.random())
    ended = [command.wait() for command in commands]
    refused = [done for done in ended if done.code]
    for done in refused:
        refusal(done, ".lock")
    if len(refused) == 2:
        raise FailedError(WRONG, "both were refused")
    check_results(project, expected)
    check_nothing_left(project)
    return Result(REFUSED if refused else RIGHT)
