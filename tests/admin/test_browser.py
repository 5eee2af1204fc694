"""The control room in a real browser: its requests, its layout, and its use by keyboard.

Pictures of every page are left in `.pytest_cache/screenshots`, to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.admin.browsers import COLOURS, STICKS_OUT, Watch, contrast, launched, tab_to
from tests.admin.federation import PASSWORD, Federation, build
from tests.conftest import using_database

PICTURES = Path(__file__).parents[2] / ".pytest_cache" / "screenshots"
WIDTHS, SCHEMES = (400, 1280), ("light", "dark")

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def federation(site: tuple[str, str], shared_cloud: Any) -> Iterator[Federation]:
    """What the served admin shows. It is there before the browser is: Django's ORM is not called beside
    Playwright's event loop."""
    with using_database(site[1]):
        yield build()


@pytest.fixture(scope="module")
def browser(federation: Federation) -> Iterator[Browser]:
    """One browser for all tests."""
    with sync_playwright() as playwright, launched(playwright) as browser:
        yield browser


@pytest.fixture(scope="module")
def watched() -> list[Watch]:
    """Return the requests and errors of each page."""
    return []


@pytest.fixture(scope="module")
def opened(site: tuple[str, str], browser: Browser, watched: list[Watch]) -> Open:
    """Return a function that opens a page as a user, on a phone."""
    contexts: dict[str, BrowserContext] = {}

    def open_page(path: str, user: str = "operator") -> Page:
        known = user in contexts
        if not known:
            contexts[user] = browser.new_context(
                base_url=site[0], viewport={"width": 400, "height": 900}
            )
        page = contexts[user].new_page()
        watched.append(Watch.over(page))
        if user and not known:
            log_in(page, user)
        page.goto(path)
        return page

    return open_page


def log_in(page: Page, user: str) -> None:
    """Log in by keyboard; the first field has the focus."""
    page.goto("/login/")
    page.keyboard.type(user)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    with page.expect_navigation():
        page.keyboard.press("Enter")


@pytest.fixture(scope="module")
def pages(opened: Open, federation: Federation) -> dict[str, Page]:
    """Return the pages that are only viewed, each opened once."""
    return {
        "login": opened("/login/", ""),
        "models": opened("/models_app/federatedmodel/"),
        "room": opened(room(federation.model)),
        "paused": opened(room(federation.paused)),
        "empty": opened(room(federation.empty)),
    }


def seen(page: Page, width: int, scheme: str) -> Page:
    """Bring a page to the front, at this width and in this colour scheme."""
    page.bring_to_front()
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    return page


def room(model: int) -> str:
    return f"/models_app/federatedmodel/{model}/change/"


def sent(page: Page, model: int, act: str) -> int:
    """Return the status of an action that is posted from a page with its token."""
    url = room(model).replace("change/", f"act/{act}/")
    token = page.locator("[name=csrfmiddlewaretoken]").first.input_value()
    form = {"reason": "because", "csrfmiddlewaretoken": token}
    return page.request.post(url, form={**form}).status


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_their_width(pages: dict[str, Page], width: int, scheme: str) -> None:
    """No page overflows on a phone or a desktop, in light or dark; a screenshot is saved."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        seen(page, width, scheme)
        page.screenshot(path=PICTURES / f"{name}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate(STICKS_OUT) == [], name


def test_every_plot_has_a_text_alternative(pages: dict[str, Page]) -> None:
    """A plot is one image with a title and a description, and its axes are named."""
    plots = pages["room"].locator(".plots").get_by_role("img").all()
    said = [plot.get_attribute("aria-label") or "" for plot in plots]
    assert [each.split(".")[0] for each in said] == [
        "Learning curve: accuracy of each aggregate",
        "Clients of each round",
        "Norms of the updates",
        "Duration of each round",
        "Read from storage in each round",
    ]
    assert all(each.endswith(".") and len(each) > 60 for each in said)
    assert [plot.locator(".axis").all_text_contents() for plot in plots][:2] == [
        ["accuracy", "aggregate"],
        ["updates", "round"],
    ]


def test_an_outlier_is_marked(pages: dict[str, Page], federation: Federation) -> None:
    """The client with the outlying norm has the first row, is named, and alone is marked."""
    plot = pages["room"].locator(".plot", has_text="Norms of the updates")
    assert f"far out: {federation.attacker}." in plot.locator("p").inner_text()
    assert plot.locator("text.far").all_text_contents() == [federation.attacker[:8], "far out"]
    marked = plot.locator("circle.bad title").all_text_contents()
    assert len(marked) == 3
    assert all(each.startswith(f"{federation.attacker}, round") for each in marked)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_plots_have_enough_contrast(pages: dict[str, Page], scheme: str) -> None:
    """All text and plot shapes have a contrast of at least 4.5 to 1 with their background."""
    assert contrast("rgb(255, 255, 255)", "rgb(0, 0, 0)") == pytest.approx(21)
    colours = seen(pages["room"], 1280, scheme).evaluate(COLOURS)
    assert len(colours) > 5
    weak = [each for each in colours if contrast(each[1], each[2]) < 4.5]
    assert weak == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_reports_no_violation(pages: dict[str, Page], width: int, scheme: str) -> None:
    """The control room breaks none of the rules that axe-core checks."""
    found = Axe().run(seen(pages["room"], width, scheme), context={"include": [[".control-room"]]})
    assert found.response["passes"]
    assert found.response["violations"] == [], found.generate_report()


def test_all_actions_work_by_keyboard(opened: Open, federation: Federation) -> None:
    """Pause, resume, a round, a version and a rollback, at the width of a phone, without a mouse."""
    page = opened(room(federation.paused))

    def enter(key: str = "Enter") -> str:
        with page.expect_navigation():
            page.keyboard.press(key)
        return page.locator(".messagelist").inner_text()

    def confirm(consequence: str) -> None:
        """Submit the form, and go to the button that confirms."""
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert consequence in page.locator(".confirm").inner_text()
        page.screenshot(path=PICTURES / f"confirm-{page.title().split('?')[0]}.png")
        tab_to(page, ".confirm button")

    tab_to(page, "form[action$='/resume/'] button")
    enter("Space")
    assert page.locator(".state").inner_text().startswith("Active")
    tab_to(page, "form[action$='/run_round/'] button")
    assert "Published, aggregate" in enter()
    tab_to(page, "form[action$='/publish/'] select")
    page.keyboard.press("ArrowDown")
    tab_to(page, "form[action$='/publish/'] input[name=version]")
    page.keyboard.type("1.0.0")
    confirm("Aggregate 1 becomes version 1.0.0")
    assert "published as version 1.0.0" in enter()
    tab_to(page, "form[action$='/rollback/'] select")
    page.keyboard.type("1")
    tab_to(page, "form[action$='/rollback/'] button")
    confirm("The weights of aggregate 1 become aggregate 3, the latest")
    assert "number 3, has the bytes of aggregate" in enter()
    tab_to(page, "form[action$='/pause/'] input[name=reason]")
    page.keyboard.type("a look at client 5")
    tab_to(page, "form[action$='/pause/'] button")
    enter()
    assert page.locator(".state").inner_text().startswith("Paused a look at client 5")
    lineage = page.locator("[aria-label=Lineage] tbody tr").all()
    assert [row.locator("td").nth(7).inner_text() for row in lineage] == ["", "", "1.0.0"]


def test_users_without_permission_see_no_button_and_are_refused(
    opened: Open, federation: Federation
) -> None:
    """A user who may only view sees no button, and a submitted form is forbidden."""
    page = opened(room(federation.model), "viewer")
    assert page.locator(".control-room .plot").count() == 5
    assert page.locator(".control-room button, .control-room form, .submit-row input").count() == 0
    assert sent(page, federation.model, "pause") == 403
    assert page.reload().status == 200  # type: ignore[union-attr]
    assert page.locator(".state").inner_text().startswith("Active")


def test_developers_see_their_own_models(opened: Open, federation: Federation) -> None:
    """Staff without a right find the models they develop in the list, and are refused the others."""
    page = opened("/models_app/federatedmodel/", "developer")
    assert page.locator("#result_list tbody a").all_inner_texts() == ["Nothing yet"]
    with page.expect_navigation():
        page.get_by_role("link", name="Nothing yet").click()
    assert page.locator(".control-room").count() == 1
    assert sent(page, federation.empty, "pause") == 403
    assert sent(page, federation.model, "pause") == 404
    page.goto(room(federation.model))
    assert page.locator(".control-room").count() == 0


def test_no_page_requests_other_sites_or_has_errors(
    site: tuple[str, str], pages: dict[str, Page], watched: list[Watch]
) -> None:
    """No opened page requested another site or had an error."""
    assert all("/static/" in " ".join(watch.requested) for watch in watched)
    assert [url for watch in watched for url in watch.outside(site[0])] == []
    assert [what for watch in watched for what in watch.wrong] == []
