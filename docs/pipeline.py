"""Write docs/pipeline.svg, the picture of the README: `make docs`, or `python docs/pipeline.py`.

Above, the stages from a source of videos to the report. Below, one video in the network: U units of T frames
that meet in a 4D block. The background is transparent. Boxes have a fill of their own; lines and text outside
of them are of middle brightness, legible on white and on black, also where a browser does not tell the theme.
"""

import sys
from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 880, 563
STYLE = """
text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #656d76 }
.name { font-size: 15px; font-weight: 600; fill: #fff }
.in { font-size: 13px; fill: #fff }
.label { font-size: 13px; font-weight: 600 }
.note { font-size: 12px }
.line { stroke: #848d97; stroke-width: 1.5; fill: none; stroke-linecap: round }
.thin { stroke: #848d97; stroke-width: 1; fill: none }
.tip { fill: #848d97 }
.icon { stroke: #fff; stroke-width: 1.8; fill: none; stroke-linecap: round; stroke-linejoin: round }
.solid { fill: #fff }
.data { fill: #2f6fc4 }
.result { fill: #7a4fc0 }
.unit { fill: #5d6875 }
.four { fill: #b85c00 }
.dot { fill: #f5b14c }
@media (prefers-color-scheme: dark) {
  .label, .note { fill: #8f99a4 }
}
"""

STAGES = (
    ("source", "data", "videos, labels", ""),
    ("archives", "data", "fetched, locked", "by their sha256"),
    ("clips", "data", "H.264 in a tar,", "one size"),
    ("shards", "data", "JPEG frames", "in LMDB"),
    ("train", "result", "one or more", "stages, DDP"),
    ("test", "result", "Algorithm 1,", "crops, orders"),
    ("report", "result", "tables, plots,", "MLflow runs"),
)
CARD, GAP, TOP = 104, 22, 10
LEFT, RIGHT = 176, 870
"""The drawing of the network; its labels end at LEFT - 16."""
UNITS, FRAMES = 4, 4
POSITIONS = ((0.26, 0.42, 0.58, 0.74), (0.74,) * 4, (0.74,) * 4, (0.74, 0.58, 0.42, 0.26))
"""Where the object is in each frame of each unit: it moves right, rests, and moves left."""


def text(x: float, y: float, words: str, kind: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, radius: float = 6) -> str:
    shape = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"'
    return f'<rect {shape} class="{kind}"/>'


def path(shape: str, kind: str = "line") -> str:
    return f'<path d="{shape}" class="{kind}"/>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"/>'


def arrow_right(x: float, y: float, length: float) -> list[str]:
    end = x + length
    return [
        path(f"M{x:g} {y:g}H{end - 5:g}"),
        path(f"M{end:g} {y:g}l-7 -4.5v9z", "tip"),
    ]


def arrow_down(x: float, y: float, length: float) -> list[str]:
    end = y + length
    return [
        path(f"M{x:g} {y:g}V{end - 5:g}"),
        path(f"M{x:g} {end:g}l-4.5 -7h9z", "tip"),
    ]


def icon(name: str, x: float, y: float) -> list[str]:
    """A sign of 32 x 28 pixels around a point."""
    strokes = {
        "source": ["M-15 -11h30v22h-30z"],
        "archives": ["M-14 -12h28v7h-28z", "M-12 -5v17h24v-17", "M-4 1h8"],
        "clips": ["M-15 -11h30v22h-30z", "M-9 -11v22", "M9 -11v22", "M-15 -4h6M-15 4h6M9 -4h6M9 4h6"],
        "shards": ["M-14 -12h28v24h-28z", "M-14 -4h28M-14 4h28", "M-5 -12v24M5 -12v24"],
        "train": ["M-15 -12v24h30", "M-10 -8c5 13 10 14 22 15"],
        "test": ["M-15 12h30", "M-10 12v-9M0 12v-15M10 12v-22"],
        "report": ["M-11 -13h15l7 7v19h-22z", "M4 -13v7h7", "M-6 1h12M-6 7h12"],
    }
    signs = [path(stroke, "icon") for stroke in strokes[name]]
    if name == "source":
        signs.append(path("M-4 -6l10 6l-10 6z", "solid"))
    return [f'<g transform="translate({x:g} {y:g})">', *signs, "</g>"]


def stages() -> list[str]:
    """The row of cards, what they are, and the folders where their files lie."""
    parts: list[str] = []
    left = [10 + number * (CARD + GAP) for number in range(len(STAGES))]
    for x, (name, kind, first, second) in zip(left, STAGES, strict=True):
        middle = x + CARD / 2
        parts += [box(x, TOP, CARD, 84, kind, 10), *icon(name, middle, TOP + 30)]
        parts += [text(middle, TOP + 70, name, "name")]
        parts += [text(middle, TOP + 104, first, "note"), text(middle, TOP + 120, second, "note")]
        if x != left[-1]:
            parts += arrow_right(x + CARD + 3, TOP + 42, GAP - 6)
    for first, last, words in (
        (1, 3, "data/<dataset>: a row for every video"),
        (4, 6, "results/<name>: a folder for every model"),
    ):
        start, end, y = left[first], left[last] + CARD, TOP + 134
        parts += [path(f"M{start:g} {y:g}v5q0 4 4 4H{end - 4:g}q4 0 4 -4v-5", "thin")]
        parts += [text((start + end) / 2, y + 26, words, "label")]
    return parts


def network() -> list[str]:
    """From the frames of one video to its class scores."""
    parts: list[str] = []
    width = (RIGHT - LEFT) / UNITS
    middles = [LEFT + (unit + 0.5) * width for unit in range(UNITS)]
    inner = 136
    y = 208

    def label(at: float, bold: str, note: str = "") -> None:
        parts.append(text(LEFT - 16, at, bold, "label", "end"))
        if note:
            parts.append(text(LEFT - 16, at + 16, note, "note", "end"))

    label(y + 10, "one video", "cut into U sections")
    count = 12  # frames of a section
    step = width / count
    chosen = range((count - FRAMES) // 2, (count + FRAMES) // 2)
    for frame in range(UNITS * count):
        kind = "data" if frame % count in chosen else "unit"
        parts.append(box(LEFT + frame * step + 1, y, step - 2, 26, kind, 2))
    for unit in range(1, UNITS):
        x = LEFT + unit * width
        parts.append(path(f"M{x:g} {y - 7:g}V{y + 33:g}"))
    for middle in middles:  # the chosen frames, magnified
        for side in (-1, 1):
            shape = (
                f"M{middle + side * FRAMES / 2 * step:g} {y + 30:g}L{middle + side * inner / 2:g} {y + 50:g}"
            )
            parts.append(path(shape, "thin"))

    y += 54
    label(y + 13, "U units", "of T frames each")
    side, gap = 31, 4
    for middle, positions in zip(middles, POSITIONS, strict=True):
        for frame, position in enumerate(positions):
            x = middle - inner / 2 + frame * (side + gap)
            parts += [box(x, y, side, side, "data", 3), circle(x + position * side, y + side / 2, 4, "dot")]
        parts += arrow_down(middle, y + side + 4, 20)

    y += side + 28
    label(y + 12, "3D convolutions", "each unit by itself")
    for middle in middles:
        parts += [
            box(middle - inner / 2, y, inner, 28, "unit"),
            text(middle, y + 19, "stem, res2, res3", "in"),
        ]
        parts += arrow_down(middle, y + 32, 20)

    y += 56
    label(y + 25, "residual 4D block", "over U, T, H and W")
    parts.append(box(LEFT, y, RIGHT - LEFT, 62, "four", 8))
    for here, middle in enumerate(middles):
        for there in range(max(0, here - 1), min(UNITS, here + 2)):
            parts.append(path(f"M{middle:g} {y + 12:g}L{middles[there]:g} {y + 50:g}", "icon"))
    for middle in middles:
        parts += [circle(middle, y + 12, 5, "solid"), circle(middle, y + 50, 5, "solid")]
        parts += arrow_down(middle, y + 66, 20)

    y += 90
    label(y + 19, "3D convolutions")
    for middle in middles:
        parts += [box(middle - inner / 2, y, inner, 28, "unit"), text(middle, y + 19, "res4, res5", "in")]
        parts += arrow_down(middle, y + 32, 20)

    y += 56
    label(y + 19, "class scores")
    parts.append(box(LEFT, y, RIGHT - LEFT, 30, "result"))
    words = "mean over units, frames and space, then one classifier: “moves right, then left”"
    parts.append(text((LEFT + RIGHT) / 2, y + 20, words, "in"))
    return parts


def picture() -> str:
    """The whole file."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-labelledby="title description">',
        '<title id="title">From videos to a report</title>',
        '<desc id="description">Source, archives, clips, shards, train, test, report. In the network, units'
        " of a few frames from all over a video meet in a residual 4D block.</desc>",
        f"<style>{STYLE}</style>",
    ]
    return "\n".join([*head, *stages(), *network(), "</svg>"]) + "\n"


if __name__ == "__main__":
    FILE.write_text(picture(), encoding="utf-8")
    print(FILE, file=sys.stderr)
