"""Which method takes align's place, and by which settings."""

from typing import Any

import pytest

from atp.baselines import min_ent, tent
from atp.data.settings import Augmentation
from atp.errors import InputError
from atp.method import align
from atp.method.choice import BaselineSettings, chosen, method_named, module_named
from atp.method.settings import AlignSettings, align_methods


def section(method: str, **baseline: Any) -> AlignSettings:
    return AlignSettings(
        epochs=3,
        batch_size=5,
        lr=0.5,
        momentum=0.25,
        weight_decay=0.125,
        batchnorm="eval",
        augmentation=Augmentation(flip=False, jitter=0.5),
        method=method,
        baseline=baseline,
    )


def test_the_papers_own_has_its_section() -> None:
    own = section("method/align")
    assert chosen(own) is own
    assert method_named("method/align") is align


def test_a_baseline_has_what_it_does_not_define_from_align() -> None:
    settings = chosen(section("baselines/tent"))
    assert isinstance(settings, tent.Settings)
    assert (settings.epochs, settings.batch_size, settings.momentum) == (3, 5, 0.25)
    assert settings.augmentation == Augmentation(flip=False, jitter=0.5)
    # Its own, as published.
    assert (settings.weight_decay, settings.batchnorm, settings.lr) == (0.0, "train", 0.5)


def test_what_is_set_for_it_goes_first() -> None:
    settings = chosen(section("baselines/tent", epochs=7, weight_decay=0.75, lr_factor=0.5))
    assert (settings.epochs, settings.weight_decay, settings.lr) == (7, 0.75, 0.25)
    assert chosen(section("baselines/tent", lr=0.125, lr_factor=0.5)).lr == 0.125


def test_a_length_of_its_own_replaces_align_s() -> None:
    by_steps = section("baselines/tent").model_copy(update={"epochs": None, "steps": 9})
    for given, epochs, steps in (
        (section("baselines/tent"), 3, None),
        (section("baselines/tent", steps=5), None, 5),
        (by_steps, None, 9),
        (by_steps.model_copy(update={"baseline": {"epochs": 2}}), 2, None),
        # It defines epochs itself.
        (by_steps.model_copy(update={"method": "baselines/cbst"}), 2, None),
        (section("baselines/cbst", steps=5), None, 5),
    ):
        settings = chosen(given)
        assert (settings.epochs, settings.steps) == (epochs, steps)
    with pytest.raises(InputError, match=r"^align\.baseline: has both epochs and steps; remove one"):
        chosen(section("baselines/tent", epochs=5, steps=5))


def test_a_wrong_setting_is_named_with_its_place() -> None:
    with pytest.raises(InputError, match=r"^here\.epoch: unknown key; is it epochs\?$"):
        chosen(section("baselines/tent", epoch=7), "here")
    with pytest.raises(InputError, match=r"^align\.baseline\.epochs: "):
        chosen(section("baselines/tent", epochs=0))


def test_every_method_has_its_module() -> None:
    assert module_named("baselines/min_ent") == "atp.baselines.min_ent"
    assert method_named("baselines/min_ent") is min_ent
    methods = align_methods()
    assert methods[0] == "method/align"
    assert methods[1:] == sorted(methods[1:])
    assert {"baselines/tent", "baselines/min_ent"} < set(methods)
    assert not [method for method in methods if method.rpartition("/")[2].startswith("_")]


def test_an_unknown_method_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"method baselines/tnt: no such method; is it baselines/tent\?"):
        section("baselines/tnt")
    with pytest.raises(ValueError, match=r"method xyz: no such method; choose from method/align, baselines/"):
        section("xyz")
    with pytest.raises(ValueError, match="baseline: only for a baseline's settings, but method is method/align"):
        section("method/align", epochs=2)


class Faster(BaselineSettings):
    lr_factor: float = 0.7


def test_a_search_tries_lower_rates_than_the_published_one() -> None:
    assert BaselineSettings.strengths() == ({"lr_factor": 0.3}, {"lr_factor": 0.1}, {"lr_factor": 0.03})
    assert Faster.strengths() == ({"lr_factor": 0.21}, {"lr_factor": 0.07}, {"lr_factor": 0.021}), "rounded"
