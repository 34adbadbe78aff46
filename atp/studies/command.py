"""``atp study``, ``atp table`` and ``atp figure``: plan, run, show."""

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from atp.errors import InputError
from atp.files import atomic_path
from atp.params import Params
from atp.runner.project import project_root
from atp.runs import ORIGIN, RUNS
from atp.selection.grid import Cell
from atp.selection.queue import enqueue, withdraw, work
from atp.studies import as_printed, testbeds
from atp.studies.catalogue import opened, study_named, with_parameters
from atp.studies.cells import Plan, plan
from atp.studies.comparison import comparison, picture, rows_and_settings
from atp.studies.definitions import Table, Where
from atp.studies.imported import bring_in, check_found
from atp.studies.output import bars, curves, markdown, missing, overlaid, tree
from atp.studies.panels import panels
from atp.studies.results import CELLS, Line, State, collect, lines, read_predictions
from atp.studies.search import SEED, search, searches_tree, told
from atp.studies.testbeds import testbed_named
from atp.training.progress import share_done

logger = logging.getLogger(__name__)

FOLDER = RUNS / "studies"

ALIKE = 3
"""Stop if this many cells, the first to end, all fail for the same reason."""


def parse_seeds(text: str) -> list[int]:
    """Parse seeds such as ``0,1,2``.

    Raises:
        InputError: not a list of whole numbers, or a seed is repeated.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {text}: must be whole numbers separated by commas, as in 0,1,2") from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"--seeds {text}: seeds must be unique and not negative")
    return seeds


Opened = Callable[[], tuple[Table, Params]]
"""Returns a table's rows and parameters, once the data are there."""


def study(name: str, where: Where) -> Opened:
    """One of our own studies.

    Raises:
        InputError: no such study or testbed.
    """
    quick = study_named(name).quick
    testbed_named(where.testbed)
    return lambda: opened(name, testbeds.parameters(where.testbed, where.roots, quick=quick), where.on)


def numbered(what: str, number: int, where: Where) -> Opened:
    """A table or figure of the paper; ``what`` is ``table`` or ``figure``.

    Raises:
        InputError: no such number or testbed.
    """
    known = as_printed.NUMBERS[what]
    if number not in known:
        raise InputError(f"{what} {number}: no such {what}; choose from {', '.join(map(str, known))}")
    testbed_named(where.testbed)
    return lambda: with_parameters(
        f"{what} {number}", known[number], testbeds.parameters(where.testbed, where.roots), where.on
    )


def make(name: str, what: Opened, seeds: Sequence[int], jobs: int, *, run: bool) -> str:
    """Compute the missing cells of a table, then write and return it.

    Args:
        name: name of the files: ``Where.files``.
        jobs: number of parallel experiments.
        run: whether to compute; False only shows finished results.

    Raises:
        InputError: no such study or number, or it does not support these data and parameters.
    """
    if Path.cwd() != project_root():
        raise InputError(f"studies run in the root of the project: cd {project_root()}")
    if ORIGIN.is_file():
        raise InputError(f"{ORIGIN}: of a project of atp init; studies and the paper's tables need a clone of ATP")
    bring_in()
    table, params = what()
    on, measured = table.on, params.data.test
    if measured.labels is None:
        raise InputError(f"params.yaml: data.{on}.labels: null; a study needs the labels of the {on} images")
    if not measured.images.is_dir():
        raise InputError(f"params.yaml: data.{on}.images: {measured.images}: no such folder; a study measures on these")
    if table.kind == "pictures":
        seeds = seeds[:1]
    if run:
        check_found(params, on)

    def evaluated(part: Table, planned: Plan, seeds: Sequence[int] = (SEED,)) -> State:
        if run:
            compute(planned, labels(part, planned, seeds), jobs)
        return collect(planned)

    table, searches, unfinished = search(table, params, evaluated)
    planned = plan((setting for row in table.rows for setting in row.settings), seeds)
    found = [*lines(table, planned, evaluated(table, planned, seeds), seeds), *unfinished]
    text = (comparison if table.kind == "printed" else markdown)(table, found, seeds)
    text += told(searches) + missing(found)
    write(f"{name}.md", text.encode())
    write(
        f"{name}.json",
        (json.dumps(tree(table, found, seeds) | {"searches": searches_tree(searches)}, indent=2) + "\n").encode(),
    )
    picture = draw(table, found, params)
    (FOLDER / f"{name}.png").unlink(missing_ok=True)
    if picture is not None:
        write(f"{name}.png", picture)
    return f"{text}\n{FOLDER}/{name}.md, .json{', .png' if picture else ''}"


def rows(what: str, number: int) -> str:
    """Rows, columns and figures of a table or figure of the paper, and what is measured here; computes nothing."""
    table, _ = numbered(what, number, Where())()
    return rows_and_settings(table)


def draw(table: Table, found: Sequence[Line], params: Params) -> bytes | None:
    """The picture of a study; None if there is nothing to draw."""
    if not any(line.values for line in found):
        return None
    if table.kind == "pictures":
        return panels(params, {line.row.name: read_predictions(line) for line in found})
    return {"curves": curves, "overlaid": overlaid, "printed": picture, "bars": bars}[table.kind](table, found)


def write(name: str, content: bytes) -> None:
    with atomic_path(FOLDER / name) as path:
        path.write_bytes(content)


def labels(table: Table, planned: Plan, seeds: Sequence[int]) -> dict[str, str]:
    """The row names that describe each experiment."""
    return {
        planned.cell(setting, seed).name: f"{row.name}, seed {seed}"
        for row in reversed(table.rows)
        for setting in row.settings
        for seed in seeds
    }


def compute(planned: Plan, names: Mapping[str, str], jobs: int) -> None:
    """Run the unfinished cells and log the progress.

    Raises:
        InputError: the first cells all failed in the same way.
    """
    logger.info("%d cells; unfinished ones are added to DVC's queue", len(planned.cells))
    found = enqueue(planned.cells, CELLS, jobs)
    for name in found["failed"]:
        logger.info("%s (%s) failed before; to retry it: dvc queue remove %s", names[name], name, name)
    before = len(found["finished"])
    todo = len(planned.cells) - before - len(found["failed"])
    logger.info("%d finished before, %d to compute", before, todo)
    if todo:
        logger.info("Ctrl-C stops watching; dvc queue stop --kill stops the runs, and this command resumes them")
        watch = Watch(planned.cells, names, before, found["failed"])
        try:
            work(planned.cells, CELLS, jobs=jobs, every_s=10, told=watch.told, left=watch.left)
        except AllFailError as error:
            withdraw(planned.cells, CELLS)
            raise InputError(
                f"stopped, since the first cells all failed alike: {error}; fix that, then dvc queue remove --failed "
                "and repeat this command"
            ) from error


class AllFailError(Exception):
    """The first cells all failed for the same reason."""


class Watch:
    """Logs concise progress of a study's experiments while they run.

    Args:
        before: number of experiments finished at the start.
        failed: names of experiments that had already failed.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        names: Mapping[str, str],
        before: int,
        failed: Collection[str] = (),
        every_s: float = 60.0,
    ) -> None:
        self._total, self._names, self._every_s = len(cells), names, every_s
        self._failed_before, self._begin = set(failed), time.monotonic()
        self._before = self._ended = before + len(failed)
        self._reasons: dict[str, str] = {}
        self._said: dict[str, float] = {}

    def told(self, name: str, line: str) -> None:
        """Log each stage as it starts, and its progress once a minute."""
        now = time.monotonic()
        progress = share_done(line)
        stage = line.startswith("Running stage")
        if stage or (progress not in (None, 1.0) and now - self._said.get(name, 0.0) >= self._every_s):
            self._said[name] = now
            logger.info("%s: %s", self._names[name], line.rstrip(":"))

    def left(self, names: Collection[str], failed: Mapping[str, str]) -> None:
        """Log the number of finished experiments when it changes, and failures.

        Raises:
            AllFailError: the first experiments all failed for the same reason.
        """
        for name in sorted(failed.keys() - self._failed_before - self._reasons.keys()):
            self._reasons[name] = failed[name] or f"no reason was given; see dvc queue logs {name}"
            logger.info("%s (%s): failed: %s", self._names[name], name, self._reasons[name])
        ended = self._total - len(names)
        if ended == self._ended:
            return
        self._ended = ended
        done, took = ended - self._before, time.monotonic() - self._begin
        logger.info(
            "%d of %d cells done, %.0f min, about %.0f min left",
            ended,
            self._total,
            took / 60,
            took / max(1, done) * len(names) / 60,
        )
        if ALIKE <= done == len(self._reasons) and names and len(set(self._reasons.values())) == 1:
            raise AllFailError(next(iter(self._reasons.values())))
