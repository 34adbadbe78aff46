"""``make ui``: Prefect's and MLflow's servers, reachable from this machine only, until Ctrl-C.

python -m flows.ui [--prefect-port 4200] [--mlflow-port 5000]
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from atp.errors import InputError, exit_codes
from atp.runner.parent import die_with_parent
from atp.runner.tracking import EXPERIMENT, open_client, tracking_uri

HOST = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
FLOW = "adapt"
MLFLOW_UI = f"http://{HOST}:{MLFLOW_PORT}"
READY_S = 180
GRACE_S = 10


def prefect_command(port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]


def mlflow_command(port: int) -> list[str]:
    """MLflow's server on the store that the stages use, which must be a database, not a server."""
    where = ["--host", HOST, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *where, "--backend-store-uri", tracking_uri()]


def variables(prefect: str) -> dict[str, str]:
    """The servers' environment.

    Args:
        prefect: the address of Prefect's server, which its page must ask; by default it asks ``PREFECT_API_URL`` or
            port 4200, whatever port serves the page. A user's own ``PREFECT_UI_API_URL``, as behind a proxy, stands.
    """
    api = f"{prefect}/api"
    # MLflow's job processes, which we do not need, take half a minute to start.
    ours = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PREFECT_API_URL": api}
    return {"PREFECT_UI_API_URL": api, **os.environ, **ours}


def start(command: list[str], log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a server in its own process group, so that only we handle Ctrl-C; it ends with this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            env=environment,
        )


def check_free(port: int, option: str) -> None:
    """Raise InputError if another program listens on the port, which would be mistaken for the server."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"{HOST}:{port}: {error.strerror}; choose another with python -m flows.ui {option} PORT"
            ) from error


def wait_until_ready(name: str, url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the server answers.

    Raises:
        InputError: the server ended or took too long.
    """
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        check_running(name, process, log)
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.3)
    raise InputError(f"{name} does not answer at {url} after {READY_S} s; see {log}")


def check_running(name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Raise InputError with the last line of the server's log if it has ended."""
    if process.poll() is not None:
        raise InputError(f"{name} ended with {process.returncode}: {_last_line(log)}; see {log}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def flow_page(prefect: str) -> str:
    """The page of the flow's runs in Prefect, also before the first of them."""
    request = urllib.request.Request(
        f"{prefect}/api/flows/", json.dumps({"name": FLOW}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return f"{prefect}/flows/flow/{json.load(answer)['id']}"


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Terminate the process group, and kill it if it does not end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefect-port", type=int, default=PREFECT_PORT)
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    arguments = parser.parse_args()
    prefect, mlflow = (f"http://{HOST}:{port}" for port in (arguments.prefect_port, arguments.mlflow_port))
    logs = Path(".atp/servers")
    commands = {"prefect": prefect_command(arguments.prefect_port), "mlflow": mlflow_command(arguments.mlflow_port)}
    addresses = {"prefect": f"{prefect}/api/health", "mlflow": f"{mlflow}/health"}
    servers: dict[str, subprocess.Popen[bytes]] = {}
    # Also if a shell started us in the background, with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with exit_codes():
        check_free(arguments.prefect_port, "--prefect-port")
        check_free(arguments.mlflow_port, "--mlflow-port")
        if tracking_uri().startswith(("http://", "https://")):
            raise InputError(f"MLFLOW_TRACKING_URI={tracking_uri()} is already a server; unset it to start one here")
        # Create the database in one process, since concurrent creation breaks it.
        experiment = open_client().get_experiment_by_name(EXPERIMENT)
        assert experiment is not None, "open_client creates it"
        environment = variables(prefect)
        try:
            for name, command in commands.items():
                servers[name] = start(command, logs / f"{name}.log", environment)
            for name, server in servers.items():
                wait_until_ready(name, addresses[name], server, logs / f"{name}.log")
            print(f"Prefect  {flow_page(prefect)}")
            print(f"MLflow   {mlflow}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning")
            print("Ctrl-C stops both.", flush=True)
            while True:
                for name, server in servers.items():
                    check_running(name, server, logs / f"{name}.log")
                time.sleep(1)
        except KeyboardInterrupt:
            pass
        finally:
            for server in servers.values():
                stop(server)


if __name__ == "__main__":
    main()
