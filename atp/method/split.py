"""Easy and hard target images by mean entropy (Sec. 3.3, Eq. 9)."""

from collections.abc import Mapping


def split(entropies: Mapping[str, float], easy_ratio: float) -> tuple[list[str], list[str]]:
    """Split image names into easy and hard ones, each in order of rising entropy and with at least one image.

    Args:
        entropies: mean normalised entropy over valid pixels by image name, in [0, 1]. Ties are ranked by name, so that
            the split does not depend on the order of files.
        easy_ratio: share of easy images.

    Raises:
        ValueError: if there are fewer than two images.
    """
    if len(entropies) < 2:
        raise ValueError("split needs at least two images")
    ranking = sorted(entropies, key=lambda name: (entropies[name], name))
    easy = min(max(1, round(len(ranking) * easy_ratio)), len(ranking) - 1)
    return ranking[:easy], ranking[easy:]
