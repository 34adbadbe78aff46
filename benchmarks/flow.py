"""Overhead of Prefect over plain ``dvc repro``: for a run with nothing to do, and for each stage that runs.

    python benchmarks/flow.py [--repeats 3]

Run it in an up-to-date project (after ``make demo``). Starts its own servers on free ports, with their own databases.
The measured stage is ``report``, run alternately in both ways. Prints Markdown.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from machine import machine


def seconds(*command: str, **variables: str) -> float:
    """Duration of a command, seconds."""
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True)
    return time.perf_counter() - start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def servers(folder: Path) -> Iterator[str]:
    """Prefect's and MLflow's, as ``make ui`` starts them; yields the address of Prefect's API."""
    ports = free_port(), free_port()
    arguments = ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    variables = {"PREFECT_HOME": str(folder / "prefect"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.ui", *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not any("Ctrl-C" in line for line in process.stdout):
            raise SystemExit("the servers did not start")
        yield f"http://127.0.0.1:{ports[0]}/api"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = range(parser.parse_args().repeats)
    dvc, flow = [sys.executable, "-m", "dvc"], [sys.executable, "-m", "flows.adapt"]
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as api:
        served = {"PREFECT_API_URL": api, "PREFECT_HOME": f"{folder}/prefect"}
        alone = {"PREFECT_API_URL": "", "PREFECT_HOME": f"{folder}/alone"}
        seconds(*flow, "--until", "source", **alone)  # creates its database
        rows = {
            "nothing to do, dvc repro": [seconds(*dvc, "repro") for _ in repeats],
            "nothing to do, flow with a server": [seconds(*flow, **served) for _ in repeats],
            "nothing to do, flow without one": [seconds(*flow, **alone) for _ in repeats],
        }
        stages: dict[str, list[float]] = {"skipped": [], "forced": [], "once": [], "twice": []}
        report = [*dvc, "repro", "--single-item", "report"]
        for _ in repeats:
            stages["skipped"].append(seconds(*report))
            stages["forced"].append(seconds(*report, "--force"))
            for times, name in enumerate(("once", "twice"), 1):
                stages[name].append(seconds(sys.executable, "-c", FLOW, str(times), **served))
    print(machine())
    print("\n| | median, s | all |\n|---|---|---|")
    rows |= {
        "dvc repro of one stage, skipped": stages["skipped"],
        "dvc repro of one stage, forced": stages["forced"],
        "a flow of this stage": stages["once"],
        "a flow of this stage, twice": stages["twice"],
    }
    for name, values in rows.items():
        print(f"| {name} | {median(values):.1f} | {' '.join(f'{value:.1f}' for value in values)} |")
    # Cost of one more stage in a flow, and in a `dvc repro` of many stages, where DVC starts only once.
    mine, plain = (
        median(b - a for a, b in zip(stages[less], stages[more], strict=True))
        for less, more in (("once", "twice"), ("skipped", "forced"))
    )
    print(f"\nFor each stage that runs: {mine:.1f} s against {plain:.1f} s, {mine - plain:+.1f} s.")


FLOW = """
import sys
from prefect import flow
from flows.adapt import HERE, stage

@flow
def reports():
    states = [stage("report", (), {}, True, {}, HERE, return_state=True) for _ in range(int(sys.argv[1]))]
    assert all(state.is_completed() for state in states)

reports()
"""


if __name__ == "__main__":
    main()
