"""Where a network's scores are made."""

import pytest
import torch
from torch import nn

from atp.models.trial import classifiers, scores_size
from tests.models import foreign


def proposed(model: nn.Module, classes: int = 3) -> list[tuple[str, int, int]]:
    found = classifiers(model, torch.rand(1, 3, 32, 32), classes, "theirs")
    return [(part.name, part.tensors, part.parameters) for part in found]


@pytest.mark.parametrize("output", ["tensor", "mapping", "object", "tuple in training"])
def test_the_last_layer_and_what_is_around_it(output: str) -> None:
    # Also where a layer before it is as wide, and where an auxiliary classifier is.
    model = foreign.Small(output=output, aux=True)
    assert proposed(model) == [("decoder.3", 2, 12), ("decoder", 9, 54 * 3 + 3 + 6 + 12)]


def test_several_layers_that_are_added_up() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck = nn.Conv2d(3, 3, 1)
            self.head = nn.ModuleDict({"low": nn.Conv2d(3, 3, 1), "high": nn.Conv2d(3, 3, 1)})
            self.outside: nn.Module | None = None

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.neck(images).relu()
            scores = self.head["low"](features) + self.head["high"](features)
            return scores + self.outside(features) if self.outside else scores

    model = Two()
    assert proposed(model) == [("head", 4, 24)]
    model.outside = nn.Conv2d(3, 3, 1)
    assert proposed(model) == [], "no one submodule holds all"


def test_of_two_that_hold_the_same_the_outer_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 3, 1), nn.Upsample(scale_factor=2)))
    assert proposed(model) == [("1", 2, 15)]


def test_a_linear_layer_on_flat_features_and_frozen_parameters() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            flat = self.linear(images.flatten(2).transpose(1, 2))
            return flat.transpose(1, 2).reshape(-1, 5, *images.shape[-2:])

    assert proposed(Flat().requires_grad_(False), 5) == [("linear", 2, 20)]


def test_a_part_that_computes_without_gradients() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                features = self.stem(images)
            return self.head(features)

    assert proposed(Held()) == [("head", 2, 12)]
    assert proposed(Held().requires_grad_(False)) == []


def test_scores_that_no_submodule_makes() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3, 1, 1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(images, self.weight)

    assert proposed(Bare()) == []


def test_hooks_do_not_stay() -> None:
    model = foreign.Small()
    proposed(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_size_of_the_scores() -> None:
    assert scores_size(foreign.Small(stride=4), (40, 64), 3, "theirs") == (10, 16)
    assert scores_size(foreign.Skips(), (40, 64), 3, "theirs") == (64, 64)
