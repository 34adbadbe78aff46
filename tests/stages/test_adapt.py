"""``atp.adapt`` and the stages are one method: with the same settings they end with the same bits."""

import os
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from atp import AdaptSettings, InputError, adapt, load_model
from atp.models.checkpoint import load_checkpoint
from atp.params import Params, load_params
from atp.training.runtime import Runtime
from tests.models.foreign import Small
from tests.stages.launch import RunStage, forkserver


def test_adapt_ends_with_the_same_bits_as_the_stages(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapted)
    params = load_params()
    threads = torch.get_num_threads()
    torch.set_num_threads(params.runtime.threads)
    try:
        result = adapt(
            load_model("runs/source"),
            "data/target/images",
            params.adapt_settings(),
            device="cpu",
            precision="fp32",
            folder=tmp_path / "labels",
        )
    finally:
        torch.set_num_threads(threads)
    assert result.label_space.names == ("sky", "road", "car")
    for stage, labels in (("dump/r01", "dump/r01"), ("dump/r02", "dump/r02"), ("split/labels", "split")):
        for file in sorted((adapted / "runs" / stage).rglob("*.*")):
            if file.name != "table.json":
                ours = tmp_path / "labels" / labels / file.relative_to(adapted / "runs" / stage)
                assert ours.read_bytes() == file.read_bytes(), ours
    state = result.given.state_dict()
    expected = load_checkpoint(Path("runs/propagate/model.safetensors")).state
    assert state.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(value, state[name])]


@pytest.mark.parametrize("ema", [0.9, None])
def test_what_rounds_carry_on_has_the_same_bits_too(
    adapted: Path,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_stage: RunStage,
    ema: float | None,
) -> None:
    """Two rounds of one schedule, and a third that begins another."""
    yaml = YAML(typ="safe")
    tree = yaml.load(project / "params.yaml")
    tree["teach"] |= {"rounds_per_schedule": 2, "ema": ema, "epochs": 2}
    tree["rounds"]["r03"] = {"model": "runs/teach/r02"}
    tree["split"]["model"] = "runs/teach/r03"
    yaml.dump(tree, project / "params.yaml")
    shutil.copytree(adapted / "runs", project / "runs", ignore=shutil.ignore_patterns("teach", "r02", "propagate"))
    for key in ("r01", "r02", "r03"):
        for stage in ("dump", "teach"):
            ended = run_stage(project, stage, "--round", key)
            assert ended.code == 0, ended.output
    carried = [(project / f"runs/teach/{key}/optimizer.safetensors").exists() for key in ("r01", "r02", "r03")]
    assert carried == [True, False, True]
    monkeypatch.chdir(project)
    settings = load_params().adapt_settings().model_copy(update={"propagate": None})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = adapt(
            load_model("runs/source"),
            "data/target/images",
            settings,
            device="cpu",
            precision="fp32",
            folder=tmp_path / "labels",
        )
    finally:
        torch.set_num_threads(threads)
    state = result.given.state_dict()
    expected = load_checkpoint(Path("runs/teach/r03/model.safetensors")).state
    assert not [name for name, value in expected.items() if not torch.equal(value, state[name])]


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": {"r01": {"model": "runs/align"}, "r02": {"model": "runs/align"}}},
        {"split": {"model": "runs/teach/r01"}},
        {"rounds": {"first": {"model": "runs/align"}}, "split": {"model": "runs/teach/first"}},
    ],
)
def test_only_algorithm_1_can_be_followed(template: Path, changes: dict[str, Any]) -> None:
    tree = YAML(typ="safe").load(template / "params.yaml") | changes
    with pytest.raises(InputError, match="adapt needs a source model, rounds r01, r02"):
        Params.model_validate(tree).adapt_settings()


def one_of_two(rank: int, port: int, images: Path, out: Path) -> None:
    """As PyTorch's launcher starts a script."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    torch.manual_seed(0)
    short: dict[str, Any] = {"epochs": 2, "batch_size": 4}
    settings = AdaptSettings(align=short, teach=short, propagate=short)
    result = adapt(Small(), images, settings, device="cpu", precision="fp32", folder=out / "labels")
    torch.save(result.given.state_dict(), out / f"{rank}.pth")


def test_two_processes_end_with_one_network(template: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    images = template / "data/target/images"
    context = forkserver()
    processes = [context.Process(target=one_of_two, args=(rank, port, images, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    assert not [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert len(list((tmp_path / "labels/split/positives").glob("*.png"))) == 8


def test_several_processes_need_a_common_folder(monkeypatch: pytest.MonkeyPatch, template: Path) -> None:
    monkeypatch.setattr("atp.api.open_runtime", lambda *_: nullcontext(Runtime(torch.device("cpu"), world_size=2)))
    with pytest.raises(InputError, match="several processes must share a folder for the pseudo labels; pass folder"):
        adapt(Small(), template / "data/target/images", device="cpu")
