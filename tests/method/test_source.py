"""Training on labels: the objective, and what it trains."""

import pytest

from atp.losses.supervised import segmentation_cross_entropy
from atp.method.settings import SourceSettings
from atp.method.source import train_source
from tests.method.known import HISTORY, RUN, Known, batch, captured, logits, same


def test_cross_entropy_on_the_augmented_images(monkeypatch: pytest.MonkeyPatch) -> None:
    network, settings, given = Known(), SourceSettings(epochs=1, batch_size=2, lr=0.1), batch(0)
    source = captured(monkeypatch, train_source, network, "images", settings, RUN)
    expected = segmentation_cross_entropy(logits(given.strong, training=True), given.labels)
    same(source.losses(given), {"loss": expected})
    training = source.training
    assert (training.network, training.settings, training.images, training.job) == (network, settings, "images", RUN)
    assert source.returned is HISTORY
