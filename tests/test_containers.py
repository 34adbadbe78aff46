"""Dockerfile and compose.yaml, as far as files can tell without a container engine: docs/how-to/containers.md."""

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Keyword and rest of every instruction, its lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def values(keyword: str) -> list[str]:
    return [rest for word, rest in instructions() if word == keyword]


def variables() -> dict[str, str]:
    """The last stage's environment."""
    return dict(entry.split("=", 1) for rest in values("ENV")[1:] for entry in rest.split())


def copied() -> list[str]:
    """Paths of the project that the image gets."""
    return [path for rest in values("COPY") if "--from" not in rest for path in rest.split()[:-1]]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a path reach the build: the last of its lines that fits decides."""
    allowed = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if re.fullmatch(f"{pattern}(/.*)?", path):
                allowed = line.startswith("!")
    return allowed


def script(name: str) -> str:
    """A program that the Dockerfile writes with printf, one quoted line each."""
    lines = re.search(rf"printf '%s\\n'((?:(?!printf).)*)> /usr/local/bin/{name}", DOCKERFILE, re.DOTALL)
    assert lines, name
    return "\n".join(re.findall(r"^ *'(.*)' \\$", lines[1], re.MULTILINE)) + "\n"


# The image


def test_every_copied_path_exists_and_reaches_the_build() -> None:
    for path in copied():
        assert (ROOT / path).exists(), path
        assert in_context(path), path
        assert in_context(f"{path}/file"), path


PRIVATE = """
    .git/config .venv/bin/python .env .dvc/config.local .dvc/cache/files/md5/00/1 .atp/state/x mlflow.db mlartifacts/1
    data/source/images/1.png mydata/target/images/1.png runs/source/model.safetensors tests/conftest.py
    atp/__pycache__/a.pyc flows/__pycache__/a.pyc
"""


@pytest.mark.parametrize("path", PRIVATE.split())
def test_data_results_and_secrets_do_not_reach_the_build(path: str) -> None:
    assert not in_context(path)


def test_python_is_one_that_the_project_allows() -> None:
    image = next(rest for rest in values("ARG") if rest.startswith("PYTHON="))
    found = re.fullmatch(r"PYTHON=python:(\d+\.\d+)-slim-\w+", image)
    assert found, image
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{found[1]}.0")
    assert values("FROM")[0].startswith("${PYTHON} ")
    assert values("FROM")[-1] == "${PYTHON}"


def packages(folder: Path, **arguments: str) -> set[str]:
    """Names that the image installs: what the Dockerfile's own shell command leaves of the lock file."""
    command = next(rest for rest in values("RUN") if "wanted.txt" in rest).replace("python -m venv /opt/venv", "true")
    (folder / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    defaults = {"DEVICE": "gpu", "TORCH_INDEX": ""}
    environment = {"PATH": os.environ["PATH"], **defaults, **arguments}
    subprocess.run(["sh", "-c", command], cwd=folder, env=environment, check=True, capture_output=True)
    return {line.split("==")[0] for line in (folder / "wanted.txt").read_text().splitlines()}


def locked() -> set[str]:
    return {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}


def test_whatever_is_installed_is_pinned() -> None:
    installs = [part for rest in values("RUN") for part in re.split(r"&&|;", rest) if "pip install" in part]
    assert len(installs) == 4
    for command in installs:
        assert "--no-deps" in command, command
    # Nothing by name; the files hold lines of the lock file.
    given = {name for command in installs for name in re.findall(r"--requirement (\S+)", command)}
    assert given == {"builder.txt", "torch.txt", "wanted.txt"}
    assert "--no-index --editable /opt/atp" in installs[-1]
    assert not re.search(r"pip install(?! --)|curl|wget", DOCKERFILE)


def installed(name: str) -> bool:
    """Whether it is here, which what is for other platforms is not."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def needed_by(lines: list[str]) -> set[str]:
    """All packages that requirements bring along here, by way of others and of extras."""
    seen: set[tuple[str, str]] = set()
    left = [(Requirement(line), "") for line in lines]
    while left:
        need, extra = left.pop()
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(need.name)
        for wanted in ("", *need.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                left += [(Requirement(line), wanted) for line in (requires(name) or [] if installed(name) else [])]
    return {name for name, _ in seen}


def test_packages_are_complete_and_free_of_development_tools(tmp_path: Path) -> None:
    chosen = packages(tmp_path)
    extras = PROJECT["optional-dependencies"]
    lines = (line for extra in extras.values() for line in extra if not line.startswith("atp["))
    tools = {canonicalize_name(Requirement(line).name) for line in lines}
    assert {"pytest", "onnx"} <= tools <= locked()
    assert not tools & chosen
    # Nor what only these tools need.
    assert not {name for name in chosen if installed(name)} - needed_by(PROJECT["dependencies"])
    assert {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]} <= chosen
    for name in chosen:
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        needs = (Requirement(line) for line in lines)
        missing = {canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate()}
        assert missing <= chosen, name


def test_the_cpu_gets_pytorch_without_what_only_a_gpu_loads(tmp_path: Path) -> None:
    left_out = locked() - packages(tmp_path, DEVICE="cpu")
    assert {"triton", "nvidia-cusolver"} <= left_out
    assert not {"torch", "torchvision", "nvidia-cublas", "nvidia-cudnn-cu13"} & left_out


def test_with_an_index_of_cpu_builds_nothing_of_cuda_is_left(tmp_path: Path) -> None:
    chosen = packages(tmp_path, DEVICE="cpu", TORCH_INDEX="anything")
    assert not {name for name in chosen if re.match(r"(nvidia|cuda|triton|torch$|torchvision$)", name)}
    names = {line.split("==")[0] for line in (tmp_path / "torch.txt").read_text().splitlines()}
    assert names == {"torch", "torchvision"}


@pytest.mark.parametrize("arguments", [{"DEVICE": "tpu"}, {"TORCH_INDEX": "anything"}])
def test_other_devices_are_refused(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        packages(tmp_path, **arguments)
    assert b"DEVICE must be gpu or cpu" in error.value.stderr


def test_it_runs_as_an_ordinary_user() -> None:
    # A number: Kubernetes cannot tell whether a name is root.
    assert int(values("USER")[-1]) > 0
    last = [word for word, _ in instructions()]
    assert "RUN" not in last[last.index("USER") :]


def test_signals_reach_the_program() -> None:
    for keyword in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(values(keyword)[-1]), list)
    assert "CMD [" in values("HEALTHCHECK")[-1]


def test_nothing_sends_telemetry() -> None:
    exports = re.findall(r"^export (\w+) \??:?= (\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(exports) >= 5
    for name, value in exports:
        assert variables()[name] == value


# What the image starts with


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def start(folder: Path, *command: str, project: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """The image's entry point, with this checkout as the image's project."""
    program = script("in-project").replace("/opt/atp", str(ROOT)).replace("= /project ]", f"= {project or folder} ]")
    assert str(ROOT) in program
    return subprocess.run(["sh", "-c", program, "in-project", *command], cwd=folder, capture_output=True, text=True)


def test_an_empty_folder_becomes_a_project(project: Path) -> None:
    done = start(project, "sh", "-c", "echo $#", "sh", "two words")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    for name in ("dvc.yaml", "prefect.yaml", "params.yaml", "data.dvc", "dvc.lock", ".dvc/config", ".dvcignore"):
        assert (project / name).read_bytes() == (ROOT / name).read_bytes()
        assert not (project / name).is_symlink()
    for name in ("atp", "flows", "assets"):
        assert (project / name).resolve() == ROOT / name
    # All that DVC's stages and its import depend on, and that no stage makes.
    for name in re.findall(
        r"\batp/[\w/.]+|assets/\w+", (ROOT / "dvc.yaml").read_text() + (ROOT / "data.dvc").read_text()
    ):
        assert (project / name).exists(), name


def test_a_newer_image_brings_code_and_keeps_settings(project: Path) -> None:
    start(project, "true")
    (project / "params.yaml").write_text("mine")
    (project / "data.dvc").write_text("mine")
    (project / "dvc.yaml").write_text("of the image before")
    (project / "atp").unlink()
    (project / "atp").symlink_to(project / "gone")
    assert start(project, "true").returncode == 0
    assert (project / "params.yaml").read_text() == (project / "data.dvc").read_text() == "mine"
    assert (project / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert (project / "atp").resolve() == ROOT / "atp"


def test_a_checkout_and_other_folders_stay_as_they_are(project: Path) -> None:
    (project / "atp").mkdir()
    assert start(project, "true").returncode == 0
    assert [path.name for path in project.iterdir()] == ["atp"]
    elsewhere = project / "atp"
    assert start(elsewhere, "true", project=project).returncode == 0
    assert not list(elsewhere.iterdir())


def test_the_entry_point_hands_on_the_exit_code(project: Path) -> None:
    assert start(project, "sh", "-c", "exit 3").returncode == 3


@pytest.fixture
def server() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def healthy(*urls: str, **environment: str) -> bool:
    command = [sys.executable, "-IS", "-c", script("healthy"), *urls]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def test_the_health_check_asks_the_server(server: str) -> None:
    assert healthy(f"{server}/health")
    assert healthy(HEALTH_URL=f"{server}/health")
    assert not healthy(f"{server}/broken")
    assert not healthy("http://127.0.0.1:9/health")
    # A pipeline run has no server.
    assert healthy()


# compose.yaml


def interpolated(text: str, given: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1]) or found[2], text)


def compose(**given: str) -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe", pure=True).load(interpolated((ROOT / "compose.yaml").read_text(), given))
    return tree


SERVICES = compose()["services"]
EVERY_SERVICE = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


@EVERY_SERVICE
def test_published_on_this_machine_alone(service: dict[str, Any]) -> None:
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    assert "network_mode" not in service


def test_ports_can_be_changed() -> None:
    services = compose(PREFECT_PORT="14200", MLFLOW_PORT="15000", MODEL_PORT="18000")["services"]
    assert services["prefect"]["ports"] == ["127.0.0.1:14200:4200"]
    assert services["mlflow"]["ports"] == ["127.0.0.1:15000:5000"]
    assert services["model"]["ports"] == ["127.0.0.1:18000:8000"]
    # The browser's way to the API changes with it, and MLflow answers under any port.
    assert "127.0.0.1:14200" in services["prefect"]["environment"]["PREFECT_UI_API_URL"]
    assert "127.0.0.1:*" in " ".join(services["mlflow"]["command"])


@EVERY_SERVICE
def test_commands_exist(service: dict[str, Any]) -> None:
    program, *rest = service["command"]
    if program == "python":
        assert rest[0] == "-m"
        assert find_spec(rest[1]), rest[1]
    else:
        scripts = {entry.name for entry in entry_points(group="console_scripts")}
        assert program in scripts


@EVERY_SERVICE
def test_health_is_checked_where_the_service_listens(service: dict[str, Any]) -> None:
    kind, program, url = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "healthy")
    port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/(api/)?health", url)
    assert port, url
    for published in service.get("ports", []):
        assert published.endswith(f":{port[1]}")
    listens = re.search(r"--port[= ](\d+)", " ".join(service["command"]))
    assert port[1] == (listens[1] if listens else "8080")  # Prefect's default for the server beside a worker


@EVERY_SERVICE
def test_a_service_may_do_no_more_than_it_needs(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "user", "ipc", "pid"} & set(service)
    # What it writes lies in a volume that the image's user may write to.
    made = next(rest for rest in values("RUN") if "useradd" in rest)
    for mount in service.get("volumes", []):
        name, path = mount.split(":")
        assert name in compose()["volumes"]
        assert f" {path} " in made
    assert service["tmpfs"] == [variables()["HOME"]]


@EVERY_SERVICE
def test_a_service_waits_until_what_it_needs_answers(service: dict[str, Any]) -> None:
    needed = service.get("depends_on", {})
    for name, condition in needed.items():
        assert SERVICES[name]["healthcheck"]
        assert condition == {"condition": "service_healthy"}
    for address in (service.get("environment") or {}).values():
        found = re.match(r"http://([a-z]+):(\d+)", address)
        if found:
            assert found[1] in needed
            assert SERVICES[found[1]]["ports"][0].endswith(f":{found[2]}")


def test_mlflow_answers_to_the_name_that_the_others_use() -> None:
    options = dict(part.split("=", 1) for part in SERVICES["mlflow"]["command"] if "=" in part)
    address = SERVICES["worker"]["environment"]["MLFLOW_TRACKING_URI"]
    assert address.removeprefix("http://") in options["--allowed-hosts"].split(",")
    assert "*" not in options["--allowed-hosts"].split(",")


def test_no_gpu_is_needed_unless_asked_for() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["prefect", "mlflow", "worker"]
    assert [name for name, service in SERVICES.items() if "deploy" in service] == ["worker-gpu"]


def test_data_loading_has_more_shared_memory_than_the_default() -> None:
    for name in ("worker", "worker-gpu"):
        assert re.fullmatch(r"\d+gb", SERVICES[name]["shm_size"])


def test_build_arguments_are_those_of_the_dockerfile() -> None:
    known = {rest.partition("=")[0] for rest in values("ARG")}
    for service in SERVICES.values():
        assert set(service["build"]["args"]) <= known


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml"])
def test_no_outside_address_is_built_in(name: str) -> None:
    hosts = set(re.findall(r"https?://([^/:$\s\"]+)", (ROOT / name).read_text()))
    assert hosts <= {"127.0.0.1", "localhost", *SERVICES}
