import pytest
import torch

from atp.pseudo_labels.negatives import negative_labels


def test_worked_by_hand() -> None:
    # Two pixels, three classes, (1, 3, 1, 2).
    probabilities = torch.tensor([[[[0.90, 0.50]], [[0.06, 0.46]], [[0.04, 0.04]]]])
    expected = torch.tensor([[[[False, False]], [[False, False]], [[True, True]]]])
    assert torch.equal(negative_labels(probabilities, 0.05), expected)


def test_at_the_threshold_is_not_below_it() -> None:
    probabilities = torch.tensor([0.95, 0.05]).reshape(1, 2, 1, 1)
    assert not negative_labels(probabilities, 0.05).any()


def test_threshold_is_at_most_one_over_classes() -> None:
    # Between 1/40 and .05.
    probabilities = torch.full((1, 40, 1, 1), 0.026)
    assert not negative_labels(probabilities, 0.05).any()


def test_without_the_cap_the_threshold_is_that_given() -> None:
    """Figure 6 goes to .2. Of three pixels of five classes, those below .25 are absent, not those below 1/5."""
    probabilities = torch.tensor([[0.4, 0.24, 0.19, 0.1, 0.07], [0.26, 0.25, 0.24, 0.2, 0.05], [0.2] * 5])
    expected = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]).bool()
    negatives = negative_labels(probabilities[:, :, None, None], 0.25, cap=False)
    assert torch.equal(negatives[:, :, 0, 0], expected)
    capped = negative_labels(probabilities[:, :, None, None], 0.25)
    assert torch.equal(capped[:, :, 0, 0], (probabilities < 0.2) & expected)


@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize("classes", [2, 19, 21, 40, 255])
def test_never_the_most_probable_class(classes: int, cap: bool) -> None:
    # Uniform but for rounding: every class is below 1/C, the argmax too.
    probabilities = torch.full((1, classes, 2, 3), 0.999 / classes)
    negatives = negative_labels(probabilities, 1.0, cap=cap)
    assert torch.equal(negatives.sum(1), torch.full((1, 2, 3), classes - 1))
    assert not negatives.gather(1, probabilities.argmax(1, keepdim=True)).any()


def test_known_positives_change_nothing() -> None:
    probabilities = torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    expected = negative_labels(probabilities, 0.05)
    assert torch.equal(negative_labels(probabilities, 0.05, probabilities.argmax(1)), expected)
    assert expected.any()


def test_input_stays_and_half_precision_is_compared_in_full() -> None:
    # bfloat16's .05 is 0.0500488: compared in bfloat16 with a threshold rounded likewise it would not be below .05001.
    probabilities = torch.tensor([0.95, 0.0500488]).reshape(1, 2, 1, 1).bfloat16()
    before = probabilities.clone()
    assert not negative_labels(probabilities, 0.05001).any()
    assert negative_labels(probabilities, 0.0501)[0, 1].all()
    assert torch.equal(probabilities, before)
