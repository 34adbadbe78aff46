"""Faults of all kinds against ATP, for minutes or hours: ``python -m tests.campaign --minutes 60 --seed 7``."""

import argparse
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.campaign import damaged, disks, files, kills, requests, trial, twice
from tests.campaign.trial import GOOD, OUTCOMES, WRONG, FailedError, Result, end

KINDS: dict[str, Callable[[int, Path], Result]] = {
    "kills": kills.trial,
    "bytes": damaged.trial,
    "files": files.trial,
    "requests": requests.trial,
    "disks": disks.trial,
    "twice": twice.trial,
    "pipeline": kills.pipeline,
    "dvc": damaged.of_dvc,
}


def one(kind: str, seed: int) -> Result:
    """Run a trial in a folder of its own, which is deleted if it ends well."""
    folder = trial.place / f"{kind}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        result = KINDS[kind](seed, folder)
    except FailedError as failed:
        result = Result(failed.args[0], note=failed.args[1])
    except Exception:  # A fault of the trial itself must not end an hour's campaign.
        result = Result(WRONG, note=traceback.format_exc())
    end(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def campaign(kinds: list[str], minutes: float, first: int) -> dict[str, list[Result]]:
    """Run trials until the time is up, each kind for its share of it."""
    start = said = time.monotonic()
    spent: dict[str, float] = dict.fromkeys(kinds, 0.0)
    found: dict[str, list[Result]] = defaultdict(list)
    while time.monotonic() - start < minutes * 60:
        kind = min(kinds, key=lambda kind: spent[kind])
        seed = first * 1_000_000 + len(found[kind])
        begun = time.monotonic()
        found[kind].append(one(kind, seed))
        spent[kind] += time.monotonic() - begun
        result = found[kind][-1]
        if result.outcome not in GOOD:
            print(f"FAILED {kind}:{seed}: {result.outcome}: {result.note}", flush=True)
        if time.monotonic() - said > 60:
            said = time.monotonic()
            done = sum(map(len, found.values()))
            print(f"{(said - start) / 60:.0f} of {minutes:g} minutes, {done} trials", flush=True)
    return found


def table(found: dict[str, list[Result]]) -> str:
    """One row per kind."""
    rows = [["kind", "trials", "faults", *OUTCOMES]]
    for kind, results in found.items():
        counts = Counter(result.outcome for result in results)
        faults = sum(result.faults for result in results)
        rows.append([kind, str(len(results)), str(faults), *(str(counts[outcome]) for outcome in OUTCOMES)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("-" * width for width in widths), *lines[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--trial", metavar="KIND:SEED", help="repeat one trial, as it is printed if it fails")
    arguments = parser.parse_args()
    # A shell that runs it in the background has Ctrl-C ignored, also for all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="atp-campaign-") as place:
        trial.place = Path(place).resolve()
        if arguments.trial:
            kind, _, seed = arguments.trial.partition(":")
            result = one(kind, int(seed))
            print(f"{arguments.trial}: {result.outcome}, {result.faults} faults {result.note}")
            sys.exit(result.outcome not in GOOD)
        print(f"seed {arguments.seed}, {platform.platform()}, Python {platform.python_version()}", flush=True)
        found = campaign(arguments.only.split(","), arguments.minutes, arguments.seed)
        end(trial.place)
    print(table(found))
    for results in found.values():
        for note in filter(None, (result.note for result in results[-1:] if result.outcome in GOOD)):
            print(note)
    sys.exit(any(result.outcome not in GOOD for results in found.values() for result in results))


if __name__ == "__main__":
    main()
