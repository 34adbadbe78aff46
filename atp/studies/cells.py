"""Settings and seeds as experiments of DVC's, each named by what it is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atp.errors import InputError
from atp.params import load_params, read_params
from atp.runs import RUNS, folder
from atp.selection.grid import SEED, Cell
from atp.studies.definitions import Setting
from atp.studies.graph import identity, steps, upstream

PIPELINE = Path("paper")
"""Folder of the pipeline that measures a cell; the experiments' names begin with it."""

RESULT = str(folder("measure"))


@dataclass(frozen=True)
class Plan:
    """The experiments of a table.

    Attributes:
        cells: without duplicates, in the order in which they are to be computed.
        by_setting: the experiment of each setting and seed.
    """

    cells: list[Cell]
    by_setting: Mapping[tuple[int, int], Cell]
    settings: Sequence[Setting]

    def cell(self, setting: Setting, seed: int) -> Cell:
        return self.by_setting[self.settings.index(setting), seed]


def plan(settings: Iterable[Setting], seeds: Sequence[int]) -> Plan:
    """One cell for each setting and seed; settings that come to the same share theirs.

    What later cells need as well comes first: short chains of stages before long ones, and of equally long ones the
    seeds in turn, so that workers side by side find what they share in DVC's cache.

    Raises:
        InputError: a setting is not valid here, with the reason.
    """
    given = list(settings)
    listed = [setting for place, setting in enumerate(given) if setting not in given[:place]]
    order: dict[str, tuple[int, int, int, Cell]] = {}
    by_setting: dict[tuple[int, int], Cell] = {}
    for place, setting in enumerate(listed):
        for number, seed in enumerate(seeds):
            cell, length = make_cell(setting, seed)
            by_setting[place, seed] = cell
            order.setdefault(cell.name, (length, place, number, cell))
    ordered = sorted(order.values(), key=lambda entry: entry[:3])
    return Plan([entry[3] for entry in ordered], by_setting, listed)


def make_cell(setting: Setting, seed: int) -> tuple[Cell, int]:
    """The experiment of a setting and a seed, and how many stages it has.

    Raises:
        InputError: the setting is not valid here.
    """
    values: dict[str, dict[str, Any]] = {".": {SEED: seed}, str(PIPELINE): {"cell.model": setting.model}}
    if setting.model.startswith("black_box/"):
        values["black_box"] = {SEED: seed}
    for name, value in setting.values.items():
        file, _, dotted = name.rpartition(":")
        values[str(Path(file).parent)][dotted] = value
    trees = {}
    for where, changes in values.items():
        path = Path(where) / "params.yaml"
        if where != str(PIPELINE):
            try:
                load_params(path, changes)
            except InputError as error:
                told = ", ".join(f"{name}={value}" for name, value in setting.values.items())
                raise InputError(f"{setting.model}{' with ' if told else ''}{told}: {error}") from error
        trees[where] = read_params(path, changes)
    chain = upstream(RESULT, steps(trees))
    stage = setting.model.replace("black_box/", "box-").replace(f"{RUNS}/", "").replace("/", "-")
    name = f"{PIPELINE.name}-{stage}-seed{seed}-{identity(chain)[:8]}"
    given = {f"{where}/params.yaml" if where != "." else "": changes for where, changes in values.items()}
    flat = {(f"{file}:{dotted}" if file else dotted): v for file, own in given.items() for dotted, v in own.items()}
    return Cell(name, flat, f"{PIPELINE}/dvc.yaml:measure"), len(chain)
