"""Settings and seeds as DVC experiments, named by their content."""

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
"""Folder of the pipeline that measures a cell; prefix of the experiments' names."""

RESULT = str(folder("measure"))


@dataclass(frozen=True)
class Plan:
    """The experiments of a table.

    Attributes:
        cells: without duplicates, in the order of computation.
        by_setting: the experiment for each setting and seed.
    """

    cells: list[Cell]
    by_setting: Mapping[tuple[int, int], Cell]
    settings: Sequence[Setting]

    def cell(self, setting: Setting, seed: int) -> Cell:
        return self.by_setting[self.settings.index(setting), seed]


def plan(settings: Iterable[Setting], seeds: Sequence[int]) -> Plan:
    """One cell per setting and seed; equivalent settings share a cell.

    Cells are ordered so that parallel workers find shared stages in DVC's cache: short chains of stages first, and
    among equally long ones alternating seeds.

    Raises:
        InputError: a setting is invalid for these parameters, with the reason.
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
    """The experiment for a setting and a seed, and its number of stages.

    Raises:
        InputError: the setting is invalid for these parameters.
    """
    # A study measures what its rows train, also where it collapses.
    shared = {SEED: seed, "evidence.on_collapse": "warn"}
    values: dict[str, dict[str, Any]] = {".": dict(shared), str(PIPELINE): {"cell.model": setting.model}}
    if setting.model.startswith("black_box/"):
        values["black_box"] = dict(shared)
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
