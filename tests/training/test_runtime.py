"""Where and how a stage computes."""

import pytest
import torch

from atp.errors import InputError
from atp.training.runtime import find_device, open_runtime
from atp.training.settings import RuntimeSettings, TrainingSettings


@pytest.mark.parametrize("has", [True, False])
def test_automatic_precision_is_bf16_only_where_the_cpu_has_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": has})
    with open_runtime(TrainingSettings(precision="auto"), RuntimeSettings(device="cpu")) as runtime, runtime.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if has else torch.float32)
    assert runtime.precision == ("bf16" if has else "fp32")


def test_a_precision_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    for precision in ("bf16", "fp16", "fp32"):
        with open_runtime(TrainingSettings(precision=precision), RuntimeSettings(device="cpu")) as runtime:
            assert runtime.precision == precision


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match="no such device 'tpu9'"):
        find_device("tpu9")
