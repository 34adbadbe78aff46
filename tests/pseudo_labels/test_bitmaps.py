from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from torch import Tensor

from atp.data.arrays import arrays_to_bytes
from atp.errors import InputError
from atp.pseudo_labels.bitmaps import pack, pack_with_torch, read_bitmaps


def labels(shape: tuple[int, int, int]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.7


def write(path: Path, bits: Tensor) -> bytes:
    data = arrays_to_bytes(pack(bits).numpy())
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("width", [*range(1, 18), 64])
@pytest.mark.parametrize("packed", [pack, pack_with_torch])
def test_pack_is_numpys_packing(packed: Callable[[Tensor], Tensor], width: int) -> None:
    bits = labels((3, 5, width))
    assert np.array_equal(packed(bits).numpy(), np.packbits(bits.numpy(), axis=-1, bitorder="little"))


@pytest.mark.parametrize("packed", [pack, pack_with_torch])
def test_pack_takes_any_memory_layout(packed: Callable[[Tensor], Tensor]) -> None:
    bits = labels((16, 8, 4))
    assert torch.equal(packed(bits.permute(2, 1, 0)), packed(bits.permute(2, 1, 0).contiguous()))


@pytest.mark.parametrize("classes", [1, 2, 11, 19, 40, 255, 256])
@pytest.mark.parametrize("size", [(1, 1), (6, 13), (16, 24)])
def test_round_trip(tmp_path: Path, classes: int, size: tuple[int, int]) -> None:
    bits = labels((classes, *size))
    write(tmp_path / "a.npy.zst", bits)
    read = read_bitmaps(tmp_path / "a.npy.zst", (classes, *size))
    assert read.dtype == torch.bool
    assert torch.equal(read, bits)


def refused(path: Path, shape: tuple[int, int, int]) -> str:
    with pytest.raises(InputError) as error:
        read_bitmaps(path, shape)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert "run the dump stage again" in str(error.value)
    return str(error.value)


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.npy.zst", (2, 4, 4)
    data, found = write(path, labels(shape)), 0
    for position in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
            try:
                read = read_bitmaps(path, shape)
            except InputError:
                found += 1
            else:
                assert torch.equal(read, labels(shape)), "a bit of the frame's header that says nothing of the data"
    assert found >= 8 * len(data) - 8


def test_any_cut_is_found(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.npy.zst", (2, 4, 4)
    data = write(path, labels(shape))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path, shape)


def test_another_shape_or_no_file(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.npy.zst", (2, 4, 4)
    write(path, labels(shape))
    refused(path, (2, 4, 9))
    refused(path, (3, 4, 4))
    path.unlink()
    assert "no such file" in refused(path, shape)


def test_a_header_that_python_cannot_split_into_tokens_is_damage(tmp_path: Path) -> None:
    plain = b"\x93NUMPY\x01\x00\x04\x00{'a("
    (tmp_path / "a.npy.zst").write_bytes(zstandard.ZstdCompressor().compress(plain))
    with pytest.raises(InputError, match="damaged or truncated"):
        read_bitmaps(tmp_path / "a.npy.zst", (3, 4, 5))


def test_what_cannot_be_read_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    """Else somebody would delete it."""
    with pytest.raises(IsADirectoryError):
        read_bitmaps(tmp_path, (2, 2, 2))
