"""``atp.adapt`` and the stages are one method: with the same settings they end with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from atp import adapt, load_model
from atp.errors import InputError
from atp.models.checkpoint import load_checkpoint
from atp.params import Params, load_params


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
    with pytest.raises(InputError, match="adapt follows Algorithm 1: a source model, rounds r01, r02"):
        Params.model_validate(tree).adapt_settings()
