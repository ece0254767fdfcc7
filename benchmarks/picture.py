"""The README's picture, from the demo: `python -m benchmarks.picture` draws one group of demo/recommended.

A question in two orders of its images, with the responses to each, their rewards, and the advantages over the group.
"""

import io
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from benchmarks.readme import REPOSITORY
from perl_jax import records
from perl_jax.runtime import files

DEMO = REPOSITORY / "demo"
FILE = REPOSITORY / "docs" / "perl.png"
WIDTH, LINE, IMAGE = 9.0, 0.3, 0.62  # inches: of the picture; a response's line; an image's side
GREEN, RED, GREY = "#1a9850", "#d73027", "#57606a"


def chosen(groups: Iterator[Mapping]) -> Mapping:
    """The first group of three images whose answer moved, with right and with wrong responses."""
    for group in groups:
        rewards = {reward for of_order in group["rewards"] for reward in of_order}
        if len(group["orders"][0]) == 3 and len(set(group["answers"])) > 1 and len(rewards) > 1:
            return group
    raise SystemExit("no group whose answer moved: run `bash launch/demo.sh` first")


def images(directory: str, split: str, name: str) -> list[Image.Image]:
    """The images of a stored record, in its original order."""
    stored = records.open_split(directory, split)
    record = next(record for i in range(len(stored)) if (record := stored[i])["id"] == name)
    return [Image.open(io.BytesIO(data)) for data in record["images"]]


def draw(group: Mapping, shown: list[Image.Image], file: Path) -> None:
    """Writes the picture."""
    from matplotlib.figure import Figure

    count = len(group["rewards"][0])
    strongest = max(abs(a) for row in group["advantages"] for a in row) or 1.0
    height = max(LINE * count + 0.65, IMAGE + 1.1)
    figure = Figure(figsize=(WIDTH, 2 * height + 0.1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(2 * height + 0.1, 0)
    axes.axis("off")
    titles = ("original order", "permuted: the wording and the answer move with the images")
    for o, (order, title) in enumerate(zip(group["orders"], titles)):
        top = 0.1 + o * height
        axes.text(0.15, top + 0.17, title, fontsize=10, color=GREY, va="center")
        for x, name in ((5.55, "reward"), (6.55, "advantage, over both orders")):
            axes.text(x, top + 0.17, name, fontsize=9, color=GREY, va="center")
        for place, image in enumerate(order):
            left = 0.15 + place * (IMAGE + 0.08)
            axes.imshow(shown[image], extent=(left, left + IMAGE, top + 0.32 + IMAGE, top + 0.32), zorder=2)
        question = group["questions"][o].replace("<image>", "").strip()
        text = f"{textwrap.fill(question, 26)}\nanswer: {group['answers'][o]}"
        axes.text(0.15, top + 0.32 + IMAGE + 0.3, text, fontsize=10, va="center")
        for g in range(count):
            y = top + 0.5 + g * LINE
            response = textwrap.shorten(group["responses"][o][g], 48, placeholder=" …")
            axes.text(2.45, y, response, fontsize=9, family="monospace", va="center", parse_math=False)
            axes.text(5.75, y, f"{group['rewards'][o][g]:.1f}", fontsize=9, va="center")
            advantage = group["advantages"][o][g]
            colour = GREEN if advantage > 0 else RED
            axes.barh(y, 0.8 * advantage / strongest, height=0.2, left=7.4, color=colour)
            axes.text(8.35, y, f"{advantage:+.2f}", fontsize=9, color=colour, va="center")
        axes.plot([7.4, 7.4], [top + 0.35, top + 0.35 + count * LINE], color=GREY, lw=0.6)
    axes.set_aspect("auto")
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Software": None})


def main() -> None:
    group = chosen(files.json_lines(DEMO / "recommended" / "rollouts.jsonl"))
    draw(group, images(str(DEMO / "warm-up" / "data"), "train", group["id"]), FILE)
    print(f"wrote {FILE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
