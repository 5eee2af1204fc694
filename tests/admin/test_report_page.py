"""The report in a real browser: axe, its requests and its layout.

Pictures are left in `.pytest_cache/screenshots`, to be looked at.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.core.management import call_command
from playwright.sync_api import Page, sync_playwright

from tests.admin.browsers import STICKS_OUT, Watch, launched
from tests.admin.federation import build
from tests.conftest import using_database

PICTURES = Path(__file__).parents[2] / ".pytest_cache" / "screenshots"


@pytest.fixture(scope="module")
def file(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, shared_cloud: Any
) -> Path:
    """The report of a model with rounds, a version, rejections and an outlier."""
    folder = tmp_path_factory.mktemp("report")
    database = folder / "report.sqlite3"
    database.write_bytes(migrated_sqlite.read_bytes())
    with using_database(f"sqlite:///{database}"):
        model, out = build().model, folder / "report.html"
        call_command("report", str(model), "--html", "--out", str(out), stdout=io.StringIO())
    return out


@pytest.fixture(scope="module")
def page(file: Path) -> Iterator[tuple[Page, Watch]]:
    """The report in a browser, and what it requested."""
    with sync_playwright() as playwright, launched(playwright) as browser:
        page = browser.new_page()
        watch = Watch.over(page)
        page.goto(file.as_uri())
        yield page, watch


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_accessible(page: tuple[Page, Watch], width: int, scheme: Any) -> None:
    """Axe finds nothing, and nothing sticks out, on a phone and on a desk, in both schemes."""
    report, watch = page
    report.set_viewport_size({"width": width, "height": 900})
    report.emulate_media(color_scheme=scheme)
    PICTURES.mkdir(parents=True, exist_ok=True)
    report.screenshot(path=PICTURES / f"report-{width}-{scheme}.png", full_page=True)
    assert report.evaluate(STICKS_OUT) == []
    found = Axe().run(report)
    assert found.violations_count == 0, found.generate_report()
    assert watch.wrong == []
    assert [url for url in watch.requested if not url.startswith("file:")] == []
