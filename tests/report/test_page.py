import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from atp.cli import app
from atp.errors import InputError
from atp.evaluation.evidence.record import INDICATORS
from atp.params import Params
from atp.report.page import build_report
from atp.report.results import read_results
from atp.report.summary import summary_table, verdict

RUNS = Path("runs")
MARKUP = "<img src=x onerror=alert(1)>"
"""In the finished run the name of a class, of an image and of a protocol, and part of a verdict."""
ESCAPED = html.escape(MARKUP)
LABELLED = {"predictions", "overlays", "iou", "labels", "ranking", "confusion", "evidence", "history"}
Finished = Callable[..., Params]


def built(params: Params) -> tuple[Path, str]:
    out = Path("out")
    out.mkdir()
    build_report(params, RUNS, out)
    return out, (out / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(reports: tuple[Path, Path]) -> str:
    return (reports[0] / "index.html").read_text(encoding="utf-8")


class Attributes(HTMLParser):
    """All attributes that could make a browser fetch or do something, and all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.names: set[str] = set()
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_page_holds_everything_and_needs_nothing(reports: tuple[Path, Path], page: str) -> None:
    assert {path.name for path in reports[0].iterdir()} == {f"{name}.png" for name in LABELLED} | {"index.html"}
    found = Attributes(page)
    assert found.tags.count("img") == len(LABELLED)
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in found.targets)
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert not re.search(r"https?://|url\(|@import", page)


def test_page_begins_with_what_was_done_and_what_to_use_and_then_pictures(page: str) -> None:
    start = page[: page.index("data:image")]
    assert "adapted to data/target/images, 8 images; tested on data/test/images, 8 images, with labels" in start
    for fact in ("resnet_small, output stride 4; 4 classes", "160x80", "<td>dvc repro</td>"):
        assert fact in start
    assert re.search(r"<td>\d{4}-\d\d-\d\d, when the models were evaluated</td>", start)
    assert "Use propagate: 52.30 % mIoU on the test images, more than any other stage. The labels that" in start
    assert page.index('id="predictions"') < page.index('id="overlays"') < page.index("<h2>Results</h2>")


def test_figures_and_what_they_mean(page: str) -> None:
    start = page[page.index("<h2>Results</h2>") : page.index('id="iou"')]
    assert all(figure in start for figure in ("40.0", "45.2", "52.3", "+12.3"))
    assert "propagate is 12.3 points of mIoU above the source model, and 7.1 above" in start
    # The class that gained, the one that the test images do not show, and the one that is markup.
    assert "61.7" in start
    assert "+11.7" in start
    assert "Not in the test labels (·): 1." in start
    assert f"</span>{ESCAPED}</td>" in start


def test_names_are_text_whatever_they_contain(page: str) -> None:
    # A class in its table and in the settings, a protocol, four models' verdicts; images' names are in pictures alone.
    assert page.count(ESCAPED) == 7
    assert MARKUP not in page
    found = Attributes(page)
    assert found.tags.count("img") == len(LABELLED)
    assert not {name for name in found.names if name.startswith("on")}


def test_page_gives_the_means_of_protocols_beside(page: str) -> None:
    table = page[page.index("<h2>Results</h2>") : page.index("<h2>Without labels</h2>")]
    assert f"<th>{ESCAPED} ↑</th>" in table
    assert "31.2" in table
    assert "43.8" in table


def test_the_recommended_model_is_the_one_that_is_compared(finished: Finished) -> None:
    params = finished()
    metrics = json.loads((RUNS / "evaluate/metrics.json").read_text())
    chosen = dict.fromkeys(metrics["miou"], 40.0) | {"teach_r01": 47.0, "batchnorm_only": 45.0}
    (RUNS / "evaluate/metrics.json").write_text(json.dumps(metrics | {"validation": {"miou": chosen}}))
    page = built(params)[1]
    told = "Use teach r01: 47.00 % mIoU on the validation images, propagate 40.00 %, which is below BatchNorm alone"
    assert told in page
    assert "highest, median and lowest mIoU of teach r01" in page
    assert "From source to teach r01" in page
    table = page[page.index("<h2>Results</h2>") : page.index("<h2>Without labels</h2>")]
    assert [row.count("recommended") for row in table.split("<tr>")][2:] == [0, 0, 0, 1, 0, 0]
    assert "validation mIoU, % ↑" in table


def test_arrows_say_which_way_is_better_where_one_is(page: str) -> None:
    rows = dict(re.findall(r"<tr><td>([a-z ]+) ([↑↓]?)</td>", page))
    assert (rows["scale iou"], rows["marginal kl"]) == ("↑", "↓")
    assert "mIoU, % ↑" in page


def test_a_click_shows_a_picture_at_full_size_without_a_script(page: str) -> None:
    assert page.count('<label><input type="checkbox" aria-label="full size"><img') == len(LABELLED)
    assert re.search(r"input:checked \+ img { max-width: none", page)


def test_page_says_what_made_it_but_not_what_changes_nothing(page: str) -> None:
    assert "keep_ratio: 0.65" in page[page.index("<details>") :]
    assert "data md5 0123abcd.dir" in page
    assert "save_every_s" not in page
    assert "alias" not in page


def test_same_run_gives_the_same_bytes(reports: tuple[Path, Path]) -> None:
    for path in reports[0].iterdir():
        assert path.read_bytes() == (reports[1] / path.name).read_bytes(), path.name


def test_pictures_hold_neither_time_nor_version(reports: tuple[Path, Path]) -> None:
    for path in reports[0].glob("*.png"):
        with Image.open(path) as image:
            assert not {"Software", "Creation Time", "date"} & set(image.info), path.name


def test_without_labels_nothing_is_said_about_being_right(finished: Finished) -> None:
    out, page = built(finished(labels=False))
    assert {path.stem for path in out.glob("*.png")} == LABELLED - {"iou", "confusion"}
    assert "cannot say whether adaptation helped" in page
    assert "Use propagate: judged improved without labels; nothing was measured with labels, so look" in page
    assert "mean entropy of propagate" in page
    assert "mIoU, %" not in page


@pytest.mark.parametrize("count", [2, 255])
def test_any_number_of_classes(finished: Finished, count: int) -> None:
    _, page = built(finished(classes=tuple(f"class {i}" for i in range(count))))
    assert f"class {count - 1}" in page
    assert ("<summary>All 255 classes</summary>" in page) == (count == 255)


def test_what_was_there_is_replaced_not_written_into(finished: Finished) -> None:
    params = finished()
    cached = Path("cached.html")
    cached.write_text("what DVC keeps")
    Path("out").mkdir()
    Path("out/index.html").hardlink_to(cached)
    build_report(params, RUNS, Path("out"))
    assert cached.read_text() == "what DVC keeps"


@pytest.mark.parametrize("missing", ["evaluate/metrics.json", "split/ranking.json", "dump/r02/table.json"])
def test_unfinished_run_is_told(finished: Finished, missing: str) -> None:
    params = finished()
    (RUNS / missing).unlink()
    with pytest.raises(InputError, match=f"runs/{missing}: no such file; run dvc repro"):
        built(params)


@pytest.mark.parametrize("name", ["split/ranking.json", "evaluate/images.json", "dump/r01/table.json"])
def test_a_table_that_is_not_as_a_stage_writes_it_is_told(finished: Finished, name: str) -> None:
    params = finished()
    Path("runs", name).write_text('{"easy": 1, "classes": [[]], "source": {"miou": {"0": []}}}')
    with pytest.raises(InputError, match=r"^runs.*damaged"):
        built(params)


def test_image_that_is_gone_is_told(finished: Finished) -> None:
    params = finished()
    Path("data/test/images/b/3.png").unlink()
    with pytest.raises(InputError, match="no image b/3, which runs/evaluate was measured on"):
        built(params)


def test_after_a_partial_run_the_command_says_what_is_of_an_earlier_one(finished: Finished) -> None:
    finished()
    Path("dvc.lock").write_text("stages: {evaluate: {deps: [{path: data, md5: old}]}}\n")
    Path("data.dvc").write_text("outs: [{path: data, md5: new}]\n")
    said = "runs/evaluate is from an earlier run: data was imported again since; run dvc repro to update it"
    result = CliRunner().invoke(app, ["report"])
    assert result.exit_code == 0, result.output
    assert result.stderr == f"warning: {said}\n"
    Path("data/test/images/b/3.png").unlink()
    assert str(CliRunner().invoke(app, ["report"]).exception) == said


def test_summary_table() -> None:
    miou = {"source": 40.0, "align": None, "teach_r01": 46.55, "propagate": 39.2, "batchnorm_only": 45.25}
    assert summary_table({"miou": miou, "entropy": {}}).splitlines() == [
        "                 mIoU, %  over source",
        "source              40.0",
        "batchnorm_only      45.2         +5.2",
        "teach_r01           46.5         +6.5",
        "propagate           39.2         -0.8",
    ]


def test_what_is_seen_without_labels_stands_beside_the_source(page: str) -> None:
    table = page[page.index("<h2>Without labels</h2>") : page.index("<h2>Classes</h2>")]
    assert "8 unlabelled target images" in table
    said = [row.count("improved") for row in table.partition("</table>")[0].split("<tr>")]
    assert said == [0] * (len(said) - 1) + [4]
    assert [row.count("improved") for row in table.split("<li>")[1:]] == [1, 1, 1, 1]
    assert table.index(">source<") < table.index(">align<") < table.index(">teach r01<") < table.index(">propagate<")
    assert "more &amp; more" in table


def test_classes_that_almost_vanished_stand_beside_the_verdict(finished: Finished) -> None:
    params = finished()
    shares = {"source": {MARKUP: 0.05, "sky": 0.9}, "after": {MARKUP: 0.001, "sky": 0.9}}
    (RUNS / "propagate/shares.json").write_text(json.dumps(shares))
    said = f"classes that almost vanished: {MARKUP} 5.0 % -> 0.1 %"
    reasons = re.findall("<li>(.*?)</li>", built(params)[1])
    assert [f"; <strong>{html.escape(said)}</strong>" in reason for reason in reasons] == [False, False, False, True]
    printed = CliRunner().invoke(app, ["report"]).stdout
    assert f"\npropagate: {said}\n" in printed
    assert "\nrecommended: use propagate: 52.30 % mIoU on the test images, more than any other stage." in printed


def test_every_indicator_is_explained(page: str) -> None:
    explained = set(" ".join(re.findall("<dt>(.*?)</dt>", page)).replace(",", "").split())
    assert [name for name in INDICATORS if not set(name.split("_")) <= explained] == []


def test_a_run_without_evidence_has_a_report(finished: Finished) -> None:
    params = finished(labels=False)
    for path in RUNS.rglob("evidence.json"):
        path.unlink()
    page = built(params)[1]
    assert "Without labels" not in page
    assert '<body class="tentative">' in page
    assert ">first to look at<" in page


def test_summary_table_with_verdicts() -> None:
    miou = {"source": 40.0, "propagate": 52.25}
    assert summary_table({"miou": miou, "entropy": {}}, {"propagate": "improved"}).splitlines() == [
        "            mIoU, %  over source  without labels",
        "source         40.0",
        "propagate      52.2        +12.2  improved",
    ]


def test_summary_table_with_protocols() -> None:
    metrics = {
        "miou": {"source": 40.0, "propagate": 42.0},
        "entropy": {},
        "protocols": {"classes_13": {"source": 45.0, "propagate": None}, "cars": {"source": 5.25, "propagate": 100.0}},
    }
    assert summary_table(metrics).splitlines() == [
        "            mIoU, %  over source  classes_13   cars",
        "source         40.0                     45.0    5.2",
        "propagate      42.0         +2.0              100.0",
    ]


def test_summary_table_without_labels() -> None:
    lines = summary_table({"miou": {}, "entropy": {"source": 0.2, "propagate": 0.1}}).splitlines()
    assert lines[1:3] == ["source        0.200", "propagate     0.100"]
    assert "no mIoU" in lines[-1]


@pytest.mark.parametrize(
    ("propagate", "text"),
    [
        (39.0, "propagate is 1.0 points of mIoU below the source model, and 5.0 below what"),
        (42.0, "propagate is 2.0 points of mIoU above the source model, and 2.0 below what"),
        (40.0, "propagate is level with the source model, and 4.0 below what"),
    ],
)
def test_verdict_is_honest(propagate: float, text: str) -> None:
    assert verdict({"source": 40.0, "batchnorm_only": 44.0, "propagate": propagate}, "propagate").startswith(text)


def test_models_in_the_pipelines_order(finished: Finished) -> None:
    results = read_results(finished(), RUNS)
    assert list(results.miou) == ["source", "batchnorm_only", "align", "teach_r01", "teach", "propagate"]
    assert results.shown == ["source", "align", "teach", "propagate"]


@pytest.mark.parametrize("known", [("source",), ()])
def test_a_black_box_with_and_without_its_own_figure(finished: Finished, known: tuple[str, ...]) -> None:
    """Its row is there if it was asked about the test images; classes are those of the answers."""
    models = (*known, "distill", "teach_r01", "teach", "propagate")
    params = finished(black_box=models)
    results = read_results(params, RUNS)
    assert results.space.names == ("sky", MARKUP, "_a class whose name is much too long for a picture_", "信号")
    assert list(results.histories()) == ["distill", "teach", "propagate"]
    out, text = built(params)
    assert {path.stem for path in out.glob("*.png")} == LABELLED
    assert ("the source model" if known else "distill, the first model known") in re.sub(r"\s+", " ", text)
    table = summary_table(json.loads((RUNS / "evaluate/metrics.json").read_text()))
    assert ("over source" in table) == bool(known)


def test_page_has_the_class_map(finished: Finished) -> None:
    params = finished()
    names = params.data.label_space().names
    targets = ({"a & b": names[0]}, *({name: name} for name in names), {"odd": "ignore"})
    data = params.data.model_copy(update={"class_map": targets})
    text = built(params.model_copy(update={"data": data}))[1]
    assert f"class map</td><td><code>a &amp; b, {names[0]} → {names[0]}; " in text
    assert "; odd → ignore</code>" in text


def test_a_network_is_named_as_in_the_parameters(finished: Finished) -> None:
    params = finished()
    named = params.model.model_copy(update={"network": "smp:Unet?encoder_name=resnet18"})
    _, page = built(params.model_copy(update={"model": named}))
    assert "smp:Unet?encoder_name=resnet18; " in page
    assert "output stride" not in page
