"""At which size and in which windows a model reads images: what can be chosen, and one line for what cannot."""

from typing import Any

import pytest

from atp.data.reading import Reading, check_window
from atp.errors import InputError

ADAPTED = Reading((160, 80))


@pytest.mark.parametrize(
    ("own", "changes", "expected"),
    [
        (ADAPTED, {}, ADAPTED),
        (ADAPTED, {"size": "native"}, Reading()),
        (ADAPTED, {"size": (320, 160)}, Reading((320, 160))),
        (ADAPTED, {"size": (320, 160), "inference": "sliding"}, Reading((320, 160), (160, 80))),
        (ADAPTED, {"size": "native", "inference": "sliding"}, Reading(None, (160, 80))),
        (ADAPTED, {"inference": "whole"}, ADAPTED),
        (Reading(), {}, Reading()),
        (Reading(), {"size": (320, 160)}, Reading((320, 160))),
        (Reading((320, 160), (96, 64)), {}, Reading((320, 160), (96, 64))),
        (Reading((320, 160), (96, 64)), {"inference": "whole"}, Reading((320, 160))),
        (Reading((320, 160), (96, 64)), {"inference": "sliding"}, Reading((320, 160), (96, 64))),
        (Reading(None, (96, 64)), {"size": (320, 160)}, Reading((320, 160), (96, 64))),
    ],
)
def test_a_model_reads_as_it_was_adapted_unless_told_otherwise(
    own: Reading, changes: dict[str, Any], expected: Reading
) -> None:
    assert own.changed(**changes) == expected


@pytest.mark.parametrize(
    ("own", "changes", "message"),
    [
        (ADAPTED, {"size": (0, 10)}, "size 0x10: must be a width and a height of at least 1, as in 1024x512"),
        (ADAPTED, {"size": 10}, "size 10: must be a width and a height of at least 1, as in 1024x512"),
        (ADAPTED, {"size": (10,)}, "size 10: must be a width and a height of at least 1, as in 1024x512"),
        (ADAPTED, {"size": (10.5, 8)}, "size 10.5x8: must be a width and a height of at least 1, as in 1024x512"),
        (ADAPTED, {"size": "large"}, "size large: must be a width and a height, or native"),
        (ADAPTED, {"inference": "tiled"}, "inference tiled: must be whole or sliding"),
        (
            ADAPTED,
            {"inference": "sliding"},
            "inference sliding: also give the size at which images are read in windows of 160x80: native, or a width "
            "and a height",
        ),
        (
            Reading(),
            {"size": "native", "inference": "sliding"},
            "inference sliding: the model's file states no size, which would be the windows'",
        ),
        (
            ADAPTED,
            {"size": (320, 79), "inference": "sliding"},
            "size 320x79: smaller than the windows of 160x80; read it larger, or predict it as a whole",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(own: Reading, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        own.changed(**changes)
    assert str(raised.value) == message


def test_windows_fit_into_an_image_of_their_own_size() -> None:
    check_window((160, 80), (160, 80), "image a")
    check_window(None, (1, 1), "image a")
    for size in ((159, 80), (160, 79)):
        with pytest.raises(InputError, match="image a: smaller than the windows of 160x80"):
            check_window((160, 80), size, "image a")


def test_how_it_is_told() -> None:
    assert str(ADAPTED) == "160x80"
    assert str(Reading(None, (160, 80))) == "each image's own, in windows of 160x80"
