"""Easy and hard by entropy (Eq. 9)."""

import pytest

from atp.method.split import split


def test_low_entropy_is_easy() -> None:
    assert split({"a": 0.3, "b": 0.1, "c": 0.2, "d": 0.4}, 0.5) == (["b", "c"], ["a", "d"])


def test_ties_are_broken_by_name_whatever_the_order() -> None:
    assert (
        split({"b": 0.1, "a": 0.1, "c": 0.1}, 0.34)
        == split({"c": 0.1, "a": 0.1, "b": 0.1}, 0.34)
        == (["a"], ["b", "c"])
    )


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_neither_part_is_empty(ratio: float) -> None:
    easy, hard = split({"a": 0.1, "b": 0.2, "c": 0.3}, ratio)
    assert easy
    assert hard


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="two images"):
        split({"a": 0.1}, 0.5)
