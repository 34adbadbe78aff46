"""Easy and hard target images by mean entropy (Sec. 3.3, Eq. 9)."""

from collections.abc import Mapping


def split(entropies: Mapping[str, float], easy_ratio: float) -> tuple[list[str], list[str]]:
    """Names of the easy and of the hard images, each from low to high entropy; both get at least one.

    Args:
        entropies: mean normalised entropy over valid pixels by image name, in [0, 1]. Equal ones are ranked by name, so
            that the split does not hang on the order of files.
        easy_ratio: share of easy images.

    Raises:
        ValueError: fewer than two images.
    """
    if len(entropies) < 2:
        raise ValueError("two images at least can be split")
    ranking = sorted(entropies, key=lambda name: (entropies[name], name))
    easy = min(max(1, round(len(ranking) * easy_ratio)), len(ranking) - 1)
    return ranking[:easy], ranking[easy:]
