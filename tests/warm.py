"""Commands in processes forked from one that has the slow libraries imported.

Python with PyTorch, MLflow or DVC takes two to five seconds of CPU to start, and `dvc repro` starts it for every stage.
Nothing of this project is imported beforehand, so a command runs the code of the folder that it is started in.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

SLOW = (
    "torch",
    "torchvision.transforms.v2",
    "torchmetrics",
    "dvc.cli",
    "dvc.repo",
    "dvc.commands.repro",
    "dvc.commands.status",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.pyfunc",
    "matplotlib.figure",
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""A lock that another thread holds while a process is forked stays locked in the new one forever."""
PYTHON = """#!{python} -IS
import os, sys
if sys.argv[1:2] not in (["-m"], ["-c"]):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import runpy
sys.exit(runpy.run_path({script!r})["ask"]({address!r}, sys.argv[1:], os.getcwd(), dict(os.environ), (0, 1, 2)))
"""


def run(arguments: list[str], cwd: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Python with these arguments, ``-m MODULE …`` or ``-c CODE …``, its output captured."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error, Path(os.devnull).open() as none:
        files = (none.fileno(), out.fileno(), error.fileno())
        code = ask(str(_server()), arguments, str(cwd), environment, files)
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(arguments, code, *texts)


def binaries() -> str:
    """A folder for the front of PATH, whose ``python`` is such a process."""
    return str(_server().parent / "bin")


@functools.cache
def _server() -> Path:
    """Address of the server that all processes of a test run share, which the first starts."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"atp-warm-{owner}"
    folder.mkdir(exist_ok=True)
    address = folder / "address"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            python = folder / "bin/python"
            python.parent.mkdir(exist_ok=True)
            python.write_text(PYTHON.format(python=sys.executable, script=__file__, address=str(address)))
            python.chmod(0o755)
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            environment |= ONE_THREAD
            # Outside the test run's output, which would otherwise wait for it.
            command = [sys.executable, "-P", __file__, str(address), str(owner)]
            with (folder / "log").open("w") as log, Path(os.devnull).open() as none:
                files = [(os.POSIX_SPAWN_DUP2, file.fileno(), number) for number, file in enumerate((none, log, log))]
                server = os.posix_spawn(sys.executable, command, environment, file_actions=files, setsid=True)
            while not address.exists():
                assert _ended(server) is None, (folder / "log").read_text()
                time.sleep(0.05)
    return address


def ask(address: str, arguments: list[str], cwd: str, environment: dict[str, str], files: tuple[int, int, int]) -> int:
    """Run Python with these arguments; returns its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        message = json.dumps([arguments, cwd, environment]).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], files)
        connection.sendall(message)
        answer = connection.recv(4)
    return int.from_bytes(answer, "big", signed=True) if answer else 1


def _serve(address: str, owner: int) -> None:
    """Serve until the owner has ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in SLOW:
            importlib.import_module(name)
    assert len(list(Path("/proc/self/task").glob("*"))) <= 1, "a library started a thread; see ONE_THREAD"
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{address}.new")
        listening.listen()
        # Whoever sees the address can connect.
        Path(f"{address}.new").rename(address)
        os.chdir("/")
        while _alive(owner):
            while _ended(-1) is not None:
                pass
            if not select.select([listening], [], [], 1)[0]:
                continue
            connection, _ = listening.accept()
            if os.fork():
                connection.close()
                continue
            listening.close()
            _run(connection)


def _run(connection: socket.socket) -> None:
    """Run what is asked for in another process, and end it if whoever asked has ended."""
    length, files, _, _ = socket.recv_fds(connection, 4, 3)
    size = int.from_bytes(length, "big")
    message = b""
    while len(message) < size and (part := connection.recv(size - len(message))):
        message += part
    child = os.fork()
    if not child:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
        _command(*json.loads(message))
    for file in files:
        os.close(file)
    while (code := _ended(child)) is None:
        if select.select([connection], [], [], 0.02)[0]:
            os.kill(child, signal.SIGKILL)
    connection.sendall(code.to_bytes(4, "big", signed=True))
    os._exit(0)


def _command(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # As Python begins.
    sys.path[:] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    option, what, *rest = arguments
    sys.argv = [what if option == "-m" else option, *rest]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    code = 1
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # As Python ends, but without taking apart what the slow libraries made, which takes two seconds.
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _ended(child: int) -> int | None:
    """Exit code of a child that has ended, as subprocess has it; None while none has."""
    try:
        done, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
    shutil.rmtree(Path(sys.argv[1]).parent)
