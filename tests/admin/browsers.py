"""A browser for the tests, and helpers that watch, navigate and measure a page.

``python -m tests.admin.browsers`` gets a browser where there is none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    Playwright,
    sync_playwright,
)

#: Searched on PATH in this order, before the browser of Playwright.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: Disable the requests of the browser itself: updates, field trials, name look-ups.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-quic")


class NoBrowser(Exception):
    """No browser starts; the message says which were tried."""


def launched(playwright: Playwright) -> Browser:
    """Return a headless Chromium: the first on PATH that starts, or that of Playwright.

    Raises
    ------
    NoBrowser
    """
    tried = []
    for path in (*filter(None, map(shutil.which, NAMES)), None):
        try:
            return playwright.chromium.launch(executable_path=path, args=QUIET)
        except Error as error:
            tried.append(f"{path or 'the one of Playwright'}: {error.message.splitlines()[0]}")
    raise NoBrowser(
        f"no browser starts; `make browser` gets one. On PATH {', '.join(NAMES)} were looked for. "
        f"Tried: {'; '.join(tried)}"
    )


def ways() -> Iterator[Sequence[str]]:
    """Yield commands that install a browser, to be tried in turn."""
    install = (sys.executable, "-m", "playwright", "install", "--only-shell")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        yield "apt-get", "update", "-qq"
        packages = ("chromium", "fonts-dejavu-core")
        yield "apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages
        yield *install, "--with-deps", "chromium"
    yield *install, "chromium"


def main() -> None:
    """Install a browser, unless one already starts."""
    commands = ways()
    while not (version := _version()):
        command = next(commands, None)
        if command is None:
            sys.exit("no browser starts, and none could be had: install Chromium")
        print("no browser starts yet:", *command, flush=True)
        subprocess.run(
            command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False
        )
    print(f"Chromium {version}")


def _version() -> str:
    """Return the version of the browser that starts, or an empty text."""
    try:
        with sync_playwright() as playwright, launched(playwright) as browser:
            return browser.version
    except NoBrowser:
        return ""


@dataclass
class Watch:
    """The requests of a page, and its errors."""

    requested: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def over(cls, page: Page) -> Watch:
        watch = cls()
        page.on("request", lambda request: watch.requested.append(request.url))
        page.on("pageerror", lambda error: watch.wrong.append(str(error)))
        page.on("requestfailed", lambda request: watch.wrong.append(f"failed: {request.url}"))
        page.on("console", watch.heard)
        return watch

    def heard(self, line: ConsoleMessage) -> None:
        if line.type in ("error", "warning"):
            self.wrong.append(f"{line.text}: {line.location['url']}")

    def outside(self, site: str) -> list[str]:
        """Return the requested URLs of other sites."""
        own = urlsplit(site).netloc
        urls = (urlsplit(url) for url in self.requested)
        return [each.geturl() for each in urls if each.scheme != "data" and each.netloc != own]


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong on a page: the rule, and the elements that break it."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    assert found["passes"]
    return [
        f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found["violations"]
    ]


def tab_to(page: Page, selector: str, presses: int = 150) -> None:
    """Press Tab until the selected element has the focus, and check that the focus is visible."""
    for _ in range(presses):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            assert page.evaluate(FOCUS_IS_SEEN), f"the focus on {selector} cannot be seen"
            return
    raise AssertionError(f"{selector} is not reached with {presses} presses of Tab")


FOCUS_IS_SEEN = """() => {
  const style = getComputedStyle(document.activeElement)
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0
}"""

#: Elements that overflow the page to the right, except those that scroll.
STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth
  const found = [...document.querySelectorAll("main *")]
    .filter(e => !e.closest(".sheet, .tabs, .scroll"))
    .filter(e => e.getBoundingClientRect().right > width + 0.5)
    .map(e => e.outerHTML.slice(0, 80))
  if (document.documentElement.scrollWidth > width) found.push("the page scrolls sideways")
  return found
}"""

#: Colours of text and of plot shapes, each with its background.
COLOURS = """() => {
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor
      if (!/, 0\\)$/.test(colour)) return colour
    }
    return "rgb(255, 255, 255)"
  }
  const found = new Map()
  for (const e of document.querySelectorAll("main *:not(.sr-only, .hit)")) {
    const style = getComputedStyle(e), svg = e instanceof SVGElement
    const words = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
    const shape = ["circle", "rect", "polyline", "polygon"].includes(e.tagName)
    if (e.tagName === "title" || e.tagName === "OPTION" || !(words || shape)) continue
    const colour = e.tagName === "polyline" ? style.stroke : svg ? style.fill : style.color
    found.set(`${colour} ${behind(e)}`, [e.outerHTML.slice(0, 60), colour, behind(e)])
  }
  return [...found.values()]
}"""


def contrast(one: str, other: str) -> float:
    """The contrast of two opaque CSS colours, as WCAG 2.2 defines it: from 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert channels, f"{colour} is no opaque colour"
    shares = [int(each) / 255 for each in channels.groups()]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


if __name__ == "__main__":
    main()
