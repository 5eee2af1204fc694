"""The console in a real browser: its requests, its layout, and its use by keyboard.

Pictures of every page are left in `.pytest_cache/screenshots`, to be looked at.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.admin.browsers import (
    COLOURS,
    STICKS_OUT,
    Watch,
    contrast,
    launched,
    tab_to,
    violations,
)
from tests.admin.federation import PASSWORD, ROUNDS, Federation, build
from tests.conftest import using_database

PICTURES = Path(__file__).parents[2] / ".pytest_cache" / "screenshots"
SCHEMES = ("light", "dark")

#: The time zone of the browsers, in which nobody mistakes UTC.
ZONE = "America/Lima"

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def federation(site: tuple[str, str], shared_cloud: Any) -> Iterator[Federation]:
    """What the served console shows. It is there before the browser is: Django's ORM is not called beside
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
                base_url=site[0], viewport={"width": 400, "height": 900}, timezone_id=ZONE
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


def room(model: int) -> str:
    return f"/models_app/federatedmodel/{model}/"


def listed(kind: str, model: int) -> str:
    return f"/models_app/{kind}/?federated_model__id__exact={model}"


@pytest.fixture(scope="module")
def pages(opened: Open, federation: Federation) -> dict[str, Page]:
    """Return the pages that are only viewed, each opened once."""
    model = federation.model
    found = {
        "login": opened("/login/", ""),
        "home": opened("/"),
        "overview": opened(room(model)),
        "overview-paused": opened(room(federation.paused)),
        "overview-empty": opened(room(federation.empty)),
        "rounds": opened(listed("aggregationround", model)),
        "clients": opened(f"{room(model)}clients/"),
        "updates": opened(listed("modelupdate", model)),
        "lineage": opened(listed("modelaggregate", model)),
        "settings": opened(f"{room(model)}change/"),
        "pause": opened(f"{room(model)}act/pause/"),
        "publish": opened(f"{room(model)}act/publish/"),
        "invite": opened(f"{room(model)}act/invite/"),
        "all-updates": opened("/models_app/modelupdate/"),
        "all-clients": opened("/models_app/client/"),
        "members": opened("/models_app/federatedmodel_clients/", "root"),
        "add-clients": opened(f"{room(model)}act/add_clients/"),
        "users": opened("/auth/user/", "root"),
        "user": opened("/auth/user/1/change/", "root"),
        "add-model": opened("/models_app/federatedmodel/add/", "root"),
        "history": opened(f"{room(model)}history/", "root"),
    }
    for name, tab, link in (
        ("round", "rounds", f"Round {ROUNDS}"),
        ("update", "updates", "Update"),
        ("aggregate", "lineage", "Aggregate 7"),
        ("client", "clients", federation.broken),
    ):
        href = found[tab].get_by_role("link", name=link).first.get_attribute("href")
        found[name] = opened(href)
    roll_back = found["aggregate"].get_by_role("link", name="Roll back to it")
    found["roll-back"] = opened(roll_back.get_attribute("href"))
    expect(found["roll-back"].locator(".confirm")).to_contain_text("What will happen")
    return found


def seen(page: Page, width: int, scheme: str) -> Page:
    """Bring a page to the front, at this width and in this colour scheme."""
    page.bring_to_front()
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    return page


def sent(page: Page, model: int, act: str) -> int:
    """Return the status of an action that is posted from a page with its token."""
    token = page.locator("[name=csrfmiddlewaretoken]").first.input_value()
    form = {"reason": "because", "csrfmiddlewaretoken": token}
    return page.request.post(f"{room(model)}act/{act}/", form={**form}).status


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (400, "light"),
        (1280, "dark"),
        pytest.param(400, "dark", marks=pytest.mark.exhaustive),
        pytest.param(1280, "light", marks=pytest.mark.exhaustive),
    ],
)
def test_axe_reports_no_violation(pages: dict[str, Page], width: int, scheme: str) -> None:
    """No page breaks a rule that axe-core checks, or is wider than its window; screenshots are saved."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        seen(page, width, scheme)
        page.screenshot(path=PICTURES / f"{name}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate(STICKS_OUT) == [], name
        assert violations(page) == [], name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_plots_have_enough_contrast(pages: dict[str, Page], scheme: str) -> None:
    """All text and plot shapes have a contrast of at least 4.5 to 1 with their background."""
    assert contrast("rgb(255, 255, 255)", "rgb(0, 0, 0)") == pytest.approx(21)
    colours = seen(pages["overview"], 1280, scheme).evaluate(COLOURS)
    assert len(colours) > 5
    weak = [each for each in colours if contrast(each[1], each[2]) < 4.5]
    assert weak == []


def test_the_cause_of_a_rejection_is_three_clicks_away(
    opened: Open, federation: Federation
) -> None:
    """From the home page: the model, its clients, the client; there is why its update was rejected."""
    page = opened("/", "viewer")
    page.get_by_role("link", name="Chest X-rays").and_(page.locator("article a")).click()
    page.get_by_role("link", name="Clients", exact=True).and_(page.locator(".tabs a")).click()
    page.get_by_role("link", name=federation.broken, exact=True).click()
    rejected = page.locator("tbody tr", has_text="Rejected")
    expect(rejected.last.locator("[data-label=Reason]")).to_have_text("nan in tensor 'b' at [0]")
    assert rejected.last.locator("time").get_attribute("datetime")


def test_every_plot_has_a_text_alternative_and_a_table(pages: dict[str, Page]) -> None:
    """A plot is one image with a title and a description, and its values are a table."""
    figures = seen(pages["overview"], 1280, "light").locator(".plots figure").all()
    said = [each.get_by_role("img").get_attribute("aria-label") or "" for each in figures]
    assert [each.split(".")[0] for each in said] == [
        "Learning curve: accuracy of each aggregate",
        "Clients of each round",
        "Norms of the updates",
        "Duration of each round",
        "Read from storage in each round",
    ]
    assert all(each.endswith(".") and len(each) > 60 for each in said)
    assert "Marked are versions: 2, roll-backs: 1, settings: 1, rejections: 1." in said[0]
    assert "Median" in said[3]
    assert "95th percentile" in said[3]
    for each in figures:
        each.get_by_text("Show as a table").click()
        assert each.get_by_role("row").count() > 5
    assert figures[0].get_by_role("link", name="7", exact=True).count() == 1


def test_an_outlier_is_marked(pages: dict[str, Page], federation: Federation) -> None:
    """The client with the outlying norm has the first row, is named, and alone is marked."""
    plot = pages["overview"].locator(".plot", has_text="Norms of the updates")
    assert f"far out: {federation.attacker}." in plot.locator("p").inner_text()
    assert plot.locator("text.far").all_text_contents() == ["Lakeside Cl…", "far out"]
    marked = plot.locator("circle.bad").all()
    assert len(marked) > 5
    assert all((each.get_attribute("data-tip") or "").startswith("Lakeside") for each in marked)


def test_values_are_shown_under_the_pointer(pages: dict[str, Page]) -> None:
    """Wherever the pointer is over a column of the learning curve, its values and marks are shown."""
    page = seen(pages["overview"], 1280, "light")
    page.locator("svg.broad .hit").nth(3).hover()
    assert page.locator(".tip").inner_text().startswith("Aggregate 4\naccuracy: ")
    assert page.locator(".tip").inner_text().endswith("\nversion 1.0.0")


def test_times_are_in_the_zone_of_the_viewer(pages: dict[str, Page]) -> None:
    """Every time is shown in the browser's zone, which the page names."""
    page = pages["rounds"]
    assert page.locator(".foot").inner_text() == f"Times are in {ZONE}."
    time = page.locator("tbody time").first
    shown = page.evaluate(
        """when => new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "short",
        timeZone: "America/Lima"}).format(new Date(when))""",
        time.get_attribute("datetime"),
    )
    assert time.inner_text() == shown
    assert pages["settings"].locator("fieldset time[title]").count() == 2


def change_round(database: str, model: int, assignment: str) -> None:
    """Change the second round of a model, as a function does while the page is open."""
    with sqlite3.connect(database.removeprefix("sqlite:///")) as rows:
        rows.execute(
            f"UPDATE models_app_aggregationround SET {assignment}, finished_on = started_on "
            "WHERE number = 2 AND federated_model_id = ?",
            (model,),
        )
    rows.close()


def test_pages_refresh_themselves(
    opened: Open, federation: Federation, site: tuple[str, str]
) -> None:
    """When the round has ended or another one has started, the page says so without being loaded again."""
    page = opened("/")
    page.clock.install()
    page.goto(room(federation.running))
    page.evaluate("window.isTheSamePage = true")
    states, announced = page.locator(".states"), page.locator("[data-announce]")
    expect(states).to_contain_text("Round 2 is running")
    change_round(site[1], federation.running, "state = 2, error = 'out of memory'")
    page.clock.run_for(4_000)
    expect(announced).to_have_text("The round has ended.", timeout=30_000)
    expect(states).not_to_contain_text("is running")
    assert page.locator("#live").inner_text().count("out of memory") > 0
    change_round(site[1], federation.running, "state = 0")
    page.clock.run_for(30_000)
    expect(announced).to_have_text("A round has started.", timeout=30_000)
    expect(states).to_contain_text("Round 2 is running")
    assert page.evaluate("window.isTheSamePage")


def test_an_open_table_is_not_replaced(opened: Open, federation: Federation) -> None:
    """While a user reads the values of a plot, the page is not refreshed."""
    page = opened("/")
    page.clock.install()
    page.goto(room(federation.model))
    page.get_by_text("Show as a table").first.click()
    page.locator("h1").click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert asked == []
    page.get_by_text("Show as a table").first.click()
    page.locator("h1").click()
    with page.expect_request(page.url):
        page.clock.run_for(30_000)


def test_all_actions_work_by_keyboard(opened: Open, federation: Federation) -> None:
    """Pause, resume, a round, a version and a roll-back, at the width of a phone, without a mouse."""
    page = opened(room(federation.paused))

    def enter(key: str = "Enter") -> None:
        with page.expect_navigation():
            page.keyboard.press(key)

    def confirm(consequence: str) -> str:
        """Read what will happen, and confirm it."""
        assert consequence in page.locator(".confirm").inner_text()
        tab_to(page, ".confirm button")
        enter()
        return page.locator(".messages").inner_text()

    tab_to(page, "form[action$='/resume/'] button")
    enter("Space")
    assert page.locator(".states").inner_text() == "Active"
    tab_to(page, "form[action$='/run_round/'] button")
    enter()
    assert "Published, aggregate" in page.locator(".messages").inner_text()
    tab_to(page, "a[href$='/publish/']")
    enter()
    tab_to(page, ".confirm select")
    page.keyboard.press("ArrowDown")
    tab_to(page, ".confirm input[name=version]")
    page.keyboard.type("1.0.0")
    enter()
    assert "published as version 1.0.0" in confirm("Aggregate 1 becomes version 1.0.0")
    tab_to(page, "a[href$='/rollback/']")
    enter()
    tab_to(page, ".confirm select")
    page.keyboard.type("1")
    tab_to(page, ".confirm button")
    enter()
    said = confirm("The weights of aggregate 1 become aggregate 3, the latest")
    assert "number 3, has the bytes of aggregate" in said
    tab_to(page, "a[href$='/pause/']")
    enter()
    tab_to(page, ".confirm input[name=reason]")
    page.keyboard.type("a look at client 5")
    confirm("No round starts until the model is resumed")
    assert page.locator(".states").inner_text().split("\n") == ["Paused", "a look at client 5"]


def test_the_menu_opens_by_keyboard_on_a_phone(opened: Open, federation: Federation) -> None:
    """The navigation is behind a button that says whether it is open; a link skips to the content."""
    page = opened("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    navigation = page.get_by_role("navigation", name="Pages")
    assert not navigation.is_visible()
    tab_to(page, "button.menu")
    page.keyboard.press("Enter")
    assert page.locator("button.menu").get_attribute("aria-expanded") == "true"
    assert navigation.is_visible()
    tab_to(page, "#navigation a[href='/models_app/client/']")


def test_users_without_permission_see_no_button_and_are_refused(
    opened: Open, federation: Federation
) -> None:
    """A user who may only view sees no button, and a submitted form is forbidden."""
    page = opened(room(federation.model), "viewer")
    assert page.locator(".plots figure").count() == 5
    assert page.locator("main button, main form").count() == 0
    assert sent(page, federation.model, "pause") == 403
    assert page.reload().status == 200  # type: ignore[union-attr]
    assert page.locator(".states").inner_text() == "Active"


def test_developers_see_their_own_models(opened: Open, federation: Federation) -> None:
    """Staff without a right find the models they develop, and are refused the others."""
    page = opened("/", "developer")
    assert page.locator("article h2").all_inner_texts() == ["Nothing yet"]
    with page.expect_navigation():
        page.locator("article h2 a").click()
    assert page.locator("h1").inner_text() == "Nothing yet"
    assert sent(page, federation.empty, "pause") == 403
    assert sent(page, federation.model, "pause") == 404
    assert page.request.get(room(federation.model)).status == 404


def test_no_page_requests_other_sites_or_has_errors(
    site: tuple[str, str], pages: dict[str, Page], watched: list[Watch]
) -> None:
    """No opened page requested another site or had an error, such as a violation of the policy."""
    assert all("/static/" in " ".join(watch.requested) for watch in watched)
    assert [url for watch in watched for url in watch.outside(site[0])] == []
    errors = [what for watch in watched for what in watch.wrong]
    assert errors == []
