"""`python -m local.diagrams`: the drawings of docs/diagrams, as SVG that asks for no script and no font.

They are committed; a test draws them anew and compares, and with it the arrows of import with the code.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "diagrams"

Point = tuple[float, float]

#: Light and dark as the reader's system has it; the background makes it readable on a page of either.
STYLE = """\
text { font: 14px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
.note { font-size: 12px; fill: #59636e }
.ground { fill: #ffffff }
.box { fill: #eef3fb; stroke: #3b6fb6 }
.group { fill: none; stroke: #8b949e; stroke-dasharray: 5 4 }
.final { fill: #e9f5ec; stroke: #2e7d4f }
.arrow { fill: none; stroke: #59636e; stroke-width: 1.5; marker-end: url(#head) }
.head { fill: #59636e }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.note { fill: #9ba7b4 }
.ground { fill: #161b22 }
.box { fill: #1b2738; stroke: #6ea0e6 }
.final { fill: #16291d; stroke: #5fb783 }
.arrow { stroke: #9ba7b4 }
.head { fill: #9ba7b4 }
}"""

HEAD = (
    '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path class="head" d="M0 0 10 5 0 10z"/></marker>'
)


class Drawing:
    """An SVG that grows by boxes and arrows.

    Parameters
    ----------
    width, height : int
    title : str
        For those who do not see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            f"<defs>{HEAD}</defs>",
            f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
        ]

    def box(
        self,
        x: int,
        y: int,
        width: int,
        height: int,
        *text: str,
        kind: str = "box",
        at_top: bool = False,
    ) -> None:
        """A rectangle with lines of text in it: the first is its name, the others are notes."""
        self._lines.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        )
        first = y + 20 if at_top else y + height / 2 + 5 - 8 * (len(text) - 1)
        for number, line in enumerate(text):
            self.text(x + width / 2, first + 17 * number, line, note=number > 0)

    def text(self, x: float, y: float, line: str, *, note: bool = True) -> None:
        """A line of text, centred."""
        kind = ' class="note"' if note else ""
        self._lines.append(f'<text{kind} x="{x:g}" y="{y:g}">{escape(line)}</text>')

    def arrow(self, *points: Point, both: bool = False) -> None:
        """A line through the points, with a head at its end, or at both."""
        path = "M" + " ".join(f"{x:g} {y:g}" for x, y in points)
        start = ' marker-start="url(#head)"' if both else ""
        self._lines.append(f'<path class="arrow" d="{path}"{start}/>')

    def svg(self) -> str:
        """The whole."""
        return "\n".join([*self._lines, "</svg>", ""])


def upload() -> str:
    """The way from an upload to an aggregate."""
    drawing = Drawing(900, 420, "From an upload to an aggregate")
    drawing.box(20, 150, 120, 60, "client")
    drawing.box(300, 130, 140, 100, "S3 bucket", "updates, scores,", "aggregates")
    drawing.box(510, 40, 120, 50, "SQS queue")
    drawing.box(300, 30, 140, 50, "schedule", "the sweep")
    drawing.box(690, 20, 190, 290, "Lambda function", kind="group", at_top=True)
    for y, name, does in (
        (55, "door", "register or reject"),
        (118, "claim", "fix the round's updates"),
        (181, "combine", "chunk by chunk"),
        (244, "publish", "all at once"),
    ):
        drawing.box(705, y, 160, 48, name, does)
    for y in (103, 166, 229):
        drawing.arrow((785, y), (785, y + 15))
    drawing.box(690, 350, 190, 50, "PostgreSQL")
    drawing.box(510, 350, 120, 50, "event bus")
    drawing.arrow((140, 168), (300, 168))
    drawing.text(220, 158, "an update")
    drawing.arrow((300, 198), (140, 198))
    drawing.text(220, 216, "latest.json, weights")
    drawing.arrow((420, 130), (420, 105), (570, 105), (570, 90))
    drawing.text(495, 120, "an object was created")
    drawing.arrow((630, 65), (690, 65))
    drawing.text(660, 55, "batch")
    drawing.arrow((440, 45), (480, 45), (480, 28), (690, 28))
    drawing.arrow((440, 172), (690, 190))
    drawing.text(575, 170, "ranged reads")
    drawing.arrow((690, 222), (440, 205))
    drawing.text(575, 236, "the result, part by part")
    drawing.arrow((690, 290), (370, 290), (370, 230))
    drawing.text(520, 282, "latest.json, after publishing")
    drawing.arrow((785, 310), (785, 350), both=True)
    drawing.arrow((720, 310), (720, 330), (570, 330), (570, 350))
    drawing.text(640, 324, "what happened")
    return drawing.svg()


#: Where each package stands, and what is said of it.
PACKAGES: dict[str, tuple[int, int, str]] = {
    "lambda_handler": (330, 20, "parse, act, answer"),
    "connectors": (330, 130, "ORM, S3, events, commands"),
    "models_app": (330, 240, "tables, admin"),
    "aggregation": (330, 350, "rules, engine, the round"),
    "local": (20, 185, "embedded cloud, tools"),
    "client": (640, 185, "for those who train"),
}
WIDTH, HEIGHT = 200, 60


def modules() -> str:
    """What imports what: an arrow for each pair of packages of which one imports the other."""
    drawing = Drawing(860, 430, "What imports what")
    for name, (x, y, about) in PACKAGES.items():
        drawing.box(x, y, WIDTH, HEIGHT, name, about)
    for importer in PACKAGES:
        for imported in sorted(imports_of(importer)):
            drawing.arrow(*_way(importer, imported))
    return drawing.svg()


def _way(importer: str, imported: str) -> Iterator[Point]:
    """An arrow's points: straight down in the column, around what stands between, or across."""
    (x, y, _), (other_x, other_y, _) = PACKAGES[importer], PACKAGES[imported]
    if x != other_x:
        right = other_x > x
        yield (x + WIDTH if right else x, y + HEIGHT / 2)
        yield (other_x if right else other_x + WIDTH, other_y + HEIGHT / 2)
    elif other_y - y == 110:
        yield (x + WIDTH / 2, y + HEIGHT)
        yield (x + WIDTH / 2, other_y)
    else:
        aside = x + WIDTH + (other_y - y) / 8
        yield (x + WIDTH, y + HEIGHT / 2)
        yield (aside, y + HEIGHT / 2)
        yield (aside, other_y + HEIGHT / 2 + y / 12)
        yield (x + WIDTH, other_y + HEIGHT / 2 + y / 12)


def imports_of(name: str) -> set[str]:
    """The packages of the drawing that one of them imports, read from its sources."""
    path = ROOT / name
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return (found & PACKAGES.keys()) - {name}


def update_states() -> str:
    """What becomes of an update."""
    drawing = Drawing(915, 370, "The states of an update")
    drawing.box(20, 150, 110, 50, "upload", "at the door", kind="group")
    drawing.box(240, 150, 120, 50, "PENDING", "ready")
    drawing.box(480, 150, 120, 50, "RUNNING", "in a round")
    drawing.box(240, 270, 120, 50, "FAILED", "ready")
    drawing.box(750, 70, 130, 50, "COMPLETE", "in an aggregate", kind="final")
    drawing.box(750, 230, 130, 50, "INVALID", "with its reason", kind="final")
    drawing.arrow((130, 175), (240, 175))
    drawing.text(185, 167, "accepted")
    drawing.arrow((360, 165), (480, 165))
    drawing.text(420, 157, "claimed")
    drawing.arrow((480, 187), (360, 187))
    drawing.text(420, 204, "round rejected")
    drawing.arrow((600, 165), (750, 100))
    drawing.text(650, 115, "published")
    drawing.arrow((600, 185), (750, 248))
    drawing.text(712, 205, "turned out bad")
    drawing.arrow((510, 200), (510, 285), (360, 285))
    drawing.text(435, 278, "round failed")
    drawing.arrow((360, 305), (560, 305), (560, 200))
    drawing.text(470, 322, "claimed")
    drawing.arrow((300, 320), (300, 350), (800, 350), (800, 280))
    drawing.text(640, 343, "superseded, or its base too old; PENDING alike")
    drawing.arrow((75, 150), (75, 30), (898, 30), (898, 255), (880, 255))
    drawing.text(400, 22, "refused")
    return drawing.svg()


def round_states() -> str:
    """What becomes of a round."""
    drawing = Drawing(900, 260, "The states of a round")
    drawing.box(20, 105, 120, 50, "claim", kind="group")
    drawing.box(280, 105, 130, 50, "RUNNING", "one of a model")
    for y, name, about in (
        (20, "PUBLISHED", "with its aggregate"),
        (105, "REJECTED", "too few were usable"),
        (190, "FAILED", "with its error"),
    ):
        drawing.box(720, y, 160, 50, name, about, kind="final")
    drawing.arrow((140, 130), (280, 130))
    drawing.text(210, 122, "requirement met")
    drawing.arrow((320, 155), (320, 205), (370, 205), (370, 155))
    drawing.text(310, 225, "lease over: taken over, attempt + 1")
    drawing.arrow((410, 120), (720, 45))
    drawing.text(500, 72, "by the attempt that holds it")
    drawing.arrow((410, 130), (720, 130))
    drawing.text(590, 123, "requirement unmet now")
    drawing.arrow((410, 140), (720, 215))
    drawing.text(585, 222, "an error, or five fruitless attempts")
    return drawing.svg()


DRAWINGS: dict[str, Callable[[], str]] = {
    "upload.svg": upload,
    "modules.svg": modules,
    "update-states.svg": update_states,
    "round-states.svg": round_states,
}


def main() -> int:
    """Draw all of them."""
    for name, draw in DRAWINGS.items():
        (FOLDER / name).write_text(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
