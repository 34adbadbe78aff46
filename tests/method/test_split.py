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
    with pytest.raises(ValueError, match=r"^split needs at least two images$"):
        split({"a": 0.1}, 0.5)


def test_two_are_one_easy_and_one_hard_image() -> None:
    assert split({"a": 0.2, "b": 0.1}, 0.5) == (["b"], ["a"])


@pytest.mark.parametrize(("ratio", "easy"), [(0.01, 1), (0.3, 2), (0.4, 2), (0.5, 2), (0.7, 4), (0.99, 4)])
def test_the_share_is_rounded(ratio: float, easy: int) -> None:
    entropies = {name: index / 10 for index, name in enumerate("abcde")}
    assert split(entropies, ratio) == (list("abcde")[:easy], list("abcde")[easy:])
