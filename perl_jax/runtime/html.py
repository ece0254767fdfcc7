"""Self-contained HTML reports that escape everything they show.

`element` escapes whatever is not `Html`, images and plots are data URLs, and a page's content security policy lets it
load nothing and run no script but its own.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

VOID = {"br", "img", "input", "meta"}  # elements without content
SIDE = 256  # pixels of a thumbnail's longer side
MAX_CHARACTERS = 500  # most characters shown of a response
COLOURS = ("#0b5fb3", "#d55e00", "#009e73", "#a4508b", "#8a6d00", "#4a4a4a", "#56b4e9")
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 70rem; margin: 0 auto;
       padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .35rem .7rem; text-align: left; }
th { border-bottom: 2px solid #8c959f; vertical-align: bottom; } td { border-bottom: 1px solid #d8dee4; }
.figures td { white-space: nowrap; font-variant-numeric: tabular-nums; }
.figures :is(th, td):first-child { position: sticky; left: 0; background: #fff; }
p.note, .dim { color: #57606a; font-size: .85rem; font-weight: normal; } p.note { max-width: 50rem; margin: .3rem 0; }
.legend span { display: inline-block; margin-right: 1.2rem; }
.legend i { display: inline-block; width: 1.6rem; height: .3rem; margin-right: .4rem; vertical-align: middle; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; font-weight: 600; } figure img { width: 100%; height: auto; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; font: .82rem/1.4 ui-monospace, monospace;
        min-width: 9rem; }
.right { background: #e3f4e8; } .wrong { background: #fdeceb; } td.number { white-space: nowrap; text-align: right; }
details, .card { margin: .5rem 0; border: 1px solid #d8dee4; border-radius: .4rem; padding: .4rem .8rem; }
summary { cursor: pointer; } pre { font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.card { margin: 1rem 0; } .card h3 { margin: .2rem 0 .4rem; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; margin: .6rem 0; }
.sides > * { min-width: 0; }
.thumbs { display: flex; flex-wrap: wrap; gap: .5rem; margin: .4rem 0; }
.thumbs figure img { width: auto; max-width: 100%; max-height: 11rem; border: 1px solid #d8dee4; }
.thumbs figcaption { font-weight: normal; font-size: .8rem; }
.tag { font-size: .78rem; border: 1px solid #8c959f; border-radius: .7rem; padding: 0 .5rem; margin-right: .4rem;
       white-space: nowrap; font-weight: normal; }
.alarm { background: #fdeceb; color: #a40e26; border-color: #a40e26; font-weight: 600; }
mark { background: #fff1a8; } label { margin-right: .8rem; }
"""


class Html(str):
    """Text that is already HTML; `element` escapes any other text."""

    __slots__ = ()


def element(tag: str, *inside: object, **attributes: object) -> Html:
    """`<tag attributes>inside</tag>` with everything that is not `Html` escaped.

    `class_` stands for class, `data_id` for data-id.
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    opening = "".join(f' {name}="{escape(str(value))}"' for name, value in names.items())
    closing = "" if tag in VOID else f"</{tag}>"
    return Html(f"<{tag}{opening}>{concat(*inside)}{closing}")


def concat(*parts: object) -> Html:
    """Concatenates the parts, escaping everything that is not `Html`."""
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def page(title: str, body: Sequence[Html], style: str = "", script: str = "") -> str:
    """A whole page. It runs no script but `script`, whose text must not hold `</script`."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        body = [*body, element("script", Html(script))]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Html(STYLE + style)),
    ]
    return "<!doctype html>\n" + element("html", element("head", *head), element("body", *body), lang="en") + "\n"


def table(header: Sequence[object], rows: Sequence[Sequence[object]], class_: str) -> Html:
    """A table that scrolls where it is wide; a cell may be a `td` element. Empty without rows."""
    if not rows:
        return Html("")
    top = element("tr", *(element("th", cell) for cell in header))
    lines = [element("tr", *(cell if isinstance(cell, Html) else element("td", cell) for cell in row)) for row in rows]
    return element("div", element("table", top, *lines, class_=class_), class_="wide")


def dim(text: object) -> Html:
    return element("span", text, class_="dim")


def note(text: object) -> Html:
    return element("p", text, class_="note")


def tag(text: object, alarm: bool = False) -> Html:
    """A short label."""
    return element("span", text, class_="tag alarm" if alarm else "tag")


def clipped(text: object) -> str:
    """The text, or if it is long its beginning and end (where answers are) and its length."""
    text, half = str(text), MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} … {text[-half:]} ({len(text)} characters)"


def text_cell(text: object, correct: float | None = None, tag: str = "td") -> Html:
    """A response, clipped, marked correct (1), wrong (0), or with its score in between."""
    marks = {None: ("", ""), 1: ("✓ ", " right"), 0: ("✗ ", " wrong")}
    mark, colour = marks.get(correct, (f"({correct}) ", ""))
    return element(tag, mark, clipped(text), class_="text" + colour)


def legend(names: Sequence[str]) -> Html:
    """The colours of names, next to plots: since names may hold anything, plots show only numbers."""
    marks = [element("i", style=f"background:{COLOURS[i % len(COLOURS)]}") for i in range(len(names))]
    return element("p", *(element("span", mark, name) for mark, name in zip(marks, names)), class_="legend")


def folded(title: object, *inside: object) -> Html:
    """A collapsible section."""
    return element("details", element("summary", title), *inside)


def thumbnail(image: Image.Image, alt: str = "", side: int = SIDE) -> Html:
    """An RGB image, shrunk to fit `side` x `side` pixels, as a JPEG in a data URL."""
    small = image.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return _image("jpeg", file.getvalue(), alt)


def plot(figure) -> Html:
    """A Matplotlib figure as SVG in a data URL."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return _image("svg+xml", file.getvalue())


def _image(kind: str, data: bytes, alt: str = "") -> Html:
    return element("img", alt=alt, src=f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
