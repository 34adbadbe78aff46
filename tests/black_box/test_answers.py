"""The store: small, exact where it promises to be, and never read where it is damaged."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atp.black_box.answers import LEAST, Answer, AnswerStore, AnswerWriter
from atp.data.labels import LabelSpace
from atp.errors import InputError

SPACE = LabelSpace(("sky", "road", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))


def upsampled(classes: int, height: int, width: int, sharpness: float = 4.0) -> Tensor:
    """Probabilities as a network's last layers make them, (C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    logits = sharpness * torch.randn(1, classes, max(2, height // 8), max(2, width // 8), generator=generator)
    return F.interpolate(logits, (height, width), mode="bilinear").softmax(1)[0]


def stored(tmp_path: Path, answer: Answer) -> Answer:
    path = tmp_path / "a.npy.zst"
    path.write_bytes(answer.to_bytes())
    return Answer.read(path)


def test_the_most_probable_come_first() -> None:
    probabilities = torch.tensor([0.1, 0.6, 0.0, 0.3])[:, None, None].expand(4, 2, 3)
    answer = Answer.of(probabilities, 3)
    assert answer.classes[:, 1, 2].tolist() == [1, 3, 0]
    assert answer.probabilities[:, 1, 2].tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert Answer.of(probabilities, 9).classes[:, 0, 0].tolist() == [1, 3, 0, 255], "a class of no probability"


def test_what_is_missing_is_spread_over_the_others() -> None:
    classes = torch.tensor([1, 3, 255], dtype=torch.uint8)[:, None, None]
    answer = Answer(classes, torch.tensor([0.6, 0.3, 0.0])[:, None, None])
    assert answer.dense(5)[:, 0, 0].tolist() == pytest.approx([0.1 / 3, 0.6, 0.1 / 3, 0.3, 0.1 / 3])


@pytest.mark.parametrize(("classes", "keep"), [(2, 4), (3, 3), (19, 4), (255, 4), (19, 1)])
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (24, 32)])
def test_round_trip(tmp_path: Path, classes: int, keep: int, size: tuple[int, int]) -> None:
    probabilities = upsampled(classes, *size)
    answer = Answer.of(probabilities, keep)
    read = stored(tmp_path, answer)
    assert torch.equal(read.classes[0], answer.classes[0])
    assert read.classes.shape == read.probabilities.shape == (min(keep, classes), *size)
    # Half a step of each code; of the first all of them.
    assert torch.allclose(read.probabilities, answer.probabilities, atol=0.01)
    assert (read.probabilities.diff(dim=0) <= 0).all()
    assert (read.probabilities.sum(0) <= 1 + 1e-6).all()
    kept = answer.probabilities >= 2 * LEAST
    assert torch.equal(read.classes[kept], answer.classes[kept])
    assert torch.equal(read.classes == 255, read.probabilities == 0)
    dense = read.dense(classes)
    assert torch.allclose(dense.sum(0), torch.ones(size))
    if keep > 1 and classes < 255:
        assert (probabilities * (probabilities.log() - dense.clamp(min=1e-9).log())).sum(0).mean() < 0.1


def test_small_probabilities_are_finer_than_large_ones(tmp_path: Path) -> None:
    second = torch.tensor([0.0012, 0.003, 0.01, 0.4])
    answer = Answer.of(torch.stack([1 - second, second])[:, None], 2)
    assert torch.allclose(stored(tmp_path, answer).probabilities[1, 0], second, rtol=0.09, atol=0)


def test_hard_answers_come_back_exactly_and_cost_next_to_nothing(tmp_path: Path) -> None:
    ids = upsampled(19, 512, 1024).argmax(0).byte()
    ids[:3] = 255
    answer = Answer.hard(ids)
    read = stored(tmp_path, answer)
    assert torch.equal(read.classes, answer.classes)
    assert torch.equal(read.probabilities, answer.probabilities)
    assert len(answer.to_bytes()) < 200_000
    dense = read.dense(19)
    assert torch.equal(dense[:, :3], torch.zeros(19, 3, 1024))
    assert torch.equal(dense.argmax(0)[3:], ids[3:].long())
    assert torch.equal(dense.amax(0)[3:], torch.ones(509, 1024))


def test_a_pixel_without_an_answer_stays_one(tmp_path: Path) -> None:
    probabilities = upsampled(5, 8, 8)
    probabilities[:, 2, 3] = 0
    read = stored(tmp_path, Answer.of(probabilities, 3))
    assert read.classes[:, 2, 3].tolist() == [255] * 3
    assert read.probabilities[:, 2, 3].tolist() == [0] * 3
    assert read.dense(5)[:, 2, 3].tolist() == [0] * 5
    assert (read.classes[0] == 255).sum() == 1


def test_any_changed_or_missing_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npy.zst"
    data = Answer.of(upsampled(4, 4, 4), 2).to_bytes()
    path.write_bytes(data)
    for position in range(len(data)):
        # Of the frame's first byte this bit means nothing.
        flipped = data[position] ^ (0x10 if position != 4 else 0x20)
        for changed in (data[:position], data[:position] + bytes([flipped]) + data[position + 1 :]):
            path.write_bytes(changed)
            with pytest.raises(InputError, match=r"a\.npy\.zst"):
                Answer.read(path)


def test_a_folder_is_whole_or_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the query stage"):
        AnswerStore(tmp_path)
    writer = AnswerWriter(tmp_path, SPACE, {"box": "folder"})
    answers = {name: Answer.of(upsampled(3, *size), 2) for name, size in (("b/1", (6, 9)), ("a", (4, 5)))}
    for name, answer in answers.items():
        writer.add(name, answer)
    with pytest.raises(InputError, match="no finished answers"):
        AnswerStore(tmp_path)
    table = writer.finish()
    store = AnswerStore(tmp_path)
    assert store.table == table
    assert (store.table["soft"], store.table["box"], store.names) == (True, {"box": "folder"}, ("a", "b/1"))
    assert store.table["images"][1] == {"name": "b/1", "height": 6, "width": 9}
    assert torch.equal(store.answer("b/1").classes[0], answers["b/1"].classes[0])
    with pytest.raises(InputError, match="no answer for the image c"):
        store.answer("c")
    (tmp_path / "answers/a.npy.zst").write_bytes((tmp_path / "answers/b/1.npy.zst").read_bytes())
    with pytest.raises(InputError, match="damaged"):
        store.answer("a")


def test_ids_alone_are_no_soft_answers(tmp_path: Path) -> None:
    writer = AnswerWriter(tmp_path, SPACE, {})
    writer.add("a", Answer.hard(torch.tensor([[0, 255, 1]], dtype=torch.uint8)))
    assert not writer.finish()["soft"]
