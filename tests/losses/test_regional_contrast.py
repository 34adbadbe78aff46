"""ReCo's loss and what it draws."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atp.losses.regional_contrast import contrast, regional_contrast_loss


def _pixels(*vectors: list[float]) -> Tensor:
    """Representations (1, D, 1, M)."""
    return torch.tensor(vectors).T[None, :, None]


UNSURE = torch.zeros(1, 1, 4)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_contrast_by_hand() -> None:
    # Cosine similarities 1 with the key, 0 and -1 with the negatives, temperature 1/2; lengths do not matter.
    loss = contrast(
        torch.tensor([[2.0, 0.0]]), torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 1.0], [-5.0, 0.0]]), temperature=0.5
    )
    assert loss.item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 1 + math.e**-2)), rel=1e-5)


def test_contrast_gradient() -> None:
    draw = torch.randn(3, 4, 5, generator=_generator(), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda queries: contrast(queries, draw[1, 0], draw[2], 0.5), draw[0].clone().requires_grad_()
    )


def test_two_classes_by_hand() -> None:
    # Whatever is drawn, every query is its class's mean and every negative its opposite: log(1 + n e^-4).
    representations = _pixels([1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0])
    loss = regional_contrast_loss(representations, torch.tensor([[[0, 0, 7, 7]]]), UNSURE, queries=5, negatives=3)
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-4)), rel=1e-4)


def test_class_means_are_float32_under_autocast_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of values that bfloat16 does not have."""
    keys = []
    monkeypatch.setattr(
        "atp.losses.regional_contrast.contrast",
        lambda queries, positive, negatives, temperature: keys.append(positive) or queries.sum() * 0,
    )
    representations = _pixels([1.0, 0.3], [0.7, 0.1], [-0.2, 0.9], [-0.2, 0.9])
    with torch.autocast("cpu", torch.bfloat16):
        regional_contrast_loss(representations, torch.tensor([[[0, 0, 1, 1]]]), UNSURE)
    expected = F.normalize(torch.tensor([[0.85, 0.2], [-0.2, 0.9]]), dim=1)
    torch.testing.assert_close(torch.stack(keys), expected, rtol=1e-6, atol=0)


def test_the_papers_numbers_of_queries_and_negatives_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        "atp.losses.regional_contrast.contrast",
        lambda queries, positive, negatives, temperature: (
            drawn.append((len(queries), len(negatives), temperature)) or queries.sum() * 0
        ),
    )
    regional_contrast_loss(_pixels([1.0], [1.0], [-1.0], [-1.0]), torch.tensor([[[0, 0, 1, 1]]]), UNSURE)
    assert drawn == [(256, 512, 0.5)] * 2


def test_only_unsure_pixels_are_queries() -> None:
    representations = _pixels([1.0, 0.0], [0.0, 1.0], [-1.0, 0.5], [-1.0, 0.0]).requires_grad_()
    labels = torch.tensor([[[0, 0, 1, 255]]])
    confidence = torch.tensor([[[0.99, 0.5, 0.99, 0.1]]])
    regional_contrast_loss(representations, labels, confidence, generator=_generator()).backward()
    assert representations.grad is not None
    moved = representations.grad.abs().sum(1)[0, 0] > 0
    # The second pixel alone: the others are sure, or have no label. Keys are constants.
    assert moved.tolist() == [False, True, False, False]


def test_a_class_without_queries_does_not_stop_the_next_one() -> None:
    representations = _pixels([1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0])
    # The first class is sure; of the second one a pixel at the very threshold is sure too.
    confidence = torch.tensor([[[0.99, 0.99, 0.75, 0.5]]])
    queries = representations.clone().requires_grad_()
    loss = regional_contrast_loss(
        queries + torch.tensor([0.0, 0.1])[None, :, None, None],
        torch.tensor([[[0, 0, 7, 7]]]),
        confidence,
        hard=0.75,
        negatives=3,
    )
    loss.backward()
    assert loss > 0
    assert queries.grad is not None
    assert (queries.grad.abs().sum(1)[0, 0] > 0).tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("labels", "confidence"), [([0, 0, 0, 255], 0.0), ([255] * 4, 0.0), ([0, 1, 2, 3], 1.0)], ids=str
)
def test_nothing_to_contrast_is_zero_with_a_gradient(labels: list[int], confidence: float) -> None:
    representations = torch.randn(1, 3, 1, 4, requires_grad=True)
    loss = regional_contrast_loss(representations, torch.tensor([[labels]]), UNSURE + confidence)
    assert loss == 0
    loss.backward()
    assert representations.grad is not None
    assert (representations.grad == 0).all()


def test_negatives_come_from_the_classes_easily_mistaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to softmax(similarity of the means / temperature), whatever the classes' sizes."""
    # Class 1 is near class 0 and small, class 2 is far from it and large.
    vectors = [[1.0, 0.0]] * 4 + [[0.8, 0.6]] * 2 + [[0.0, 1.0]] * 30
    labels = torch.tensor([[[0] * 4 + [1] * 2 + [2] * 30]])
    drawn = []
    monkeypatch.setattr(
        "atp.losses.regional_contrast.contrast",
        lambda queries, positive, negatives, temperature: drawn.append(negatives) or queries.sum() * 0,
    )
    regional_contrast_loss(_pixels(*vectors), labels, torch.zeros(1, 1, 36), negatives=20_000, generator=_generator())
    of_first = drawn[0]
    share = (of_first[:, 0] == 0.8).float().mean().item()
    assert not (of_first == torch.tensor([1.0, 0.0])).all(1).any(), "never of the own class"
    assert share == pytest.approx(torch.tensor([0.8 / 0.5, 0.0]).softmax(0)[0].item(), abs=0.02)


def test_the_generator_decides() -> None:
    representations = torch.randn(2, 4, 5, 5, generator=_generator())
    labels = torch.randint(3, (2, 5, 5), generator=_generator())

    def loss(seed: int) -> Tensor:
        return regional_contrast_loss(
            representations, labels, torch.zeros(2, 5, 5), queries=4, negatives=4, generator=_generator(seed)
        )

    assert torch.equal(loss(1), loss(1))
    assert not torch.equal(loss(1), loss(2))


def test_descending_it_parts_the_classes() -> None:
    labels = torch.arange(2).repeat_interleave(8).reshape(1, 4, 4)
    representations = torch.randn(1, 6, 4, 4, generator=_generator()).requires_grad_()

    def separation() -> float:
        flat = F.normalize(representations.detach()[0].flatten(1).T, dim=1)
        return (flat[:8].mean(0) @ flat[8:].mean(0)).item()

    before = separation()
    torch.manual_seed(0)
    for _ in range(30):
        loss = regional_contrast_loss(representations, labels, torch.zeros(1, 4, 4))
        (slope,) = torch.autograd.grad(loss, representations)
        representations.data -= 5 * slope
    assert separation() < before - 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    representations = torch.randn(1, 4, 3, 3, generator=_generator()).to(dtype)
    labels = torch.randint(2, (1, 3, 3), generator=_generator())
    expected = regional_contrast_loss(representations.float(), labels, torch.zeros(1, 3, 3), generator=_generator())
    with torch.autocast("cpu", torch.bfloat16):
        mine = regional_contrast_loss(representations, labels, torch.zeros(1, 3, 3), generator=_generator())
    assert torch.equal(mine, expected)


def test_saturated_representations_give_finite_gradients() -> None:
    for value in (0.0, 1e4):
        representations = torch.full((1, 3, 2, 2), value, requires_grad=True)
        regional_contrast_loss(representations, torch.tensor([[[0, 1], [0, 1]]]), torch.zeros(1, 2, 2)).backward()
        assert representations.grad is not None
        assert representations.grad.isfinite().all()
