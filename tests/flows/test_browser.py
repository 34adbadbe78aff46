"""What a person does in Prefect's UI, done in headless Chromium: the form, the button Retry, the pages of a run.

`SCREENSHOTS=folder pytest tests/flows/test_browser.py` keeps pictures of the failed and of the retried run.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.flows.conftest import bad_input
from tests.flows.prefect_api import Prefect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root, as whom CI may run; it opens our own pages alone.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("SCREENSHOTS", tmp_path)).resolve()


def start_by_form(page: Page, served: Prefect, until: str) -> str:
    """Fill in the form of the deployment and send it; the run's id."""
    ui = served.url.removesuffix("/api")
    deployment = served.call("GET", f"deployments/name/{served.deployment}")["id"]
    page.goto(f"{ui}/deployments/deployment/{deployment}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    expect(page.get_by_text("last stage to run")).to_be_visible()
    # What is filled in while the form still asks the server for its fields is lost, and so is a press of Submit.
    page.wait_for_load_state("networkidle")
    field = page.locator("textarea").nth(1)
    field.fill(until)
    expect(field).to_have_value(until)
    before = served.runs()
    with page.expect_response(lambda response: response.url.endswith("/create_flow_run")):
        page.get_by_role("button", name="Submit").click()
    (run,) = served.runs() - before
    page.goto(f"{ui}/runs/flow-run/{run}")
    return run


def expect_state(page: Page, name: str) -> None:
    expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=240_000)


def test_the_form_starts_a_run_and_the_button_retry_continues_it(
    page: Page, served: Prefect, project: Path, pictures: Path
) -> None:
    with bad_input(project):
        run = start_by_form(page, served, "align")
        expect_state(page, "Failed")
    page.screenshot(path=pictures / "prefect-failed.png")
    page.get_by_role("button", name="Retry").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    expect_state(page, "Completed")
    assert served.tasks(run)["align"] == "Cached"
    page.reload()
    page.wait_for_timeout(2000)  # the graph draws itself
    page.screenshot(path=pictures / "prefect-retried.png")
