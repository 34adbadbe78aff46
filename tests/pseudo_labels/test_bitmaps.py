from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from atp.errors import InputError
from atp.pseudo_labels.bitmaps import bitmaps_to_bytes, pack, read_bitmaps


def labels(shape: tuple[int, int, int]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.7


def write(path: Path, bits: Tensor) -> bytes:
    data = bitmaps_to_bytes(pack(bits).numpy(), bits.shape[2])
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("width", [*range(1, 18), 64])
def test_pack_is_numpys_packing(width: int) -> None:
    bits = labels((3, 5, width))
    assert np.array_equal(pack(bits).numpy(), np.packbits(bits.numpy(), axis=-1, bitorder="little"))


def test_pack_takes_any_memory_layout() -> None:
    bits = labels((16, 8, 4))
    assert torch.equal(pack(bits.permute(2, 1, 0)), pack(bits.permute(2, 1, 0).contiguous()))


@pytest.mark.parametrize("classes", [1, 2, 11, 19, 40, 255, 256])
@pytest.mark.parametrize("size", [(1, 1), (6, 13), (16, 24)])
def test_round_trip(tmp_path: Path, classes: int, size: tuple[int, int]) -> None:
    bits = labels((classes, *size))
    write(tmp_path / "a.neg", bits)
    read = read_bitmaps(tmp_path / "a.neg", (classes, *size))
    assert read.dtype == torch.bool
    assert torch.equal(read, bits)


def refused(path: Path, shape: tuple[int, int, int]) -> str:
    with pytest.raises(InputError) as error:
        read_bitmaps(path, shape)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.neg", (2, 4, 4)
    data = write(path, labels(shape))
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        refused(path, shape)


def test_any_cut_is_found(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.neg", (2, 4, 4)
    data = write(path, labels(shape))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path, shape)


def test_another_shape_version_or_no_file(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.neg", (2, 4, 4)
    data = write(path, labels(shape))
    refused(path, (2, 4, 5))
    refused(path, (3, 4, 4))
    path.write_bytes(data[:4] + b"\2" + data[5:])
    assert "version 2" in refused(path, shape)
    path.unlink()
    assert "no such file" in refused(path, shape)
