"""An HTML page on a run's training data: `python -m perl_jax.train --config=FILE --workdir=DIR --inspect=8`.

Shows the first questions as the run's steps draw them: exact prompts, resized images, answers in each order, and
whether the config's reward ranks the true answer above wrong ones. For a sample of the set it shows lengths, excluded
records and padding. No weights are read or made: it takes seconds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

import models
from models import images
from perl_jax import permute, policy
from perl_jax.grading import Grader
from perl_jax.records import prompt_lengths
from perl_jax.records.prompts import Prompts
from perl_jax.records.stream import Stream
from perl_jax.runtime import files, html
from perl_jax.runtime.html import Html, concat, dim, element, folded, note, table, tag
from perl_jax.training import batch as batches
from perl_jax.training import check_config, inspect_data, run_data
from perl_jax.training.inspect_data import DataStats, Fill, InspectedOrder, InspectedQuestion

FILE = "inspect.html"
NAMED = 20  # most invalid records listed by name

STYLE = """
.thumbs figure img { min-height: 5rem; } .thumbs figure { max-width: 14rem; }
.tokens { max-height: 24rem; overflow: auto; border: 1px solid #d8dee4; padding: .3rem; margin: .4rem 0; }
.tokens span { background: #f3f6f9; } .tokens span:nth-child(2n) { background: #dde6ee; }
.tokens b { color: #0b5fb3; font-weight: 600; }
"""


def write(config: ConfigDict, workdir: Path, count: int) -> str:
    """Writes WORKDIR/inspect.html with the first `count` questions of the run; returns a summary.

    Raises InputError for a config, data or reward with which the run could not start.
    """
    check_config.check(config)
    workdir.mkdir(parents=True, exist_ok=True)
    data = run_data.data_sources(config, workdir)
    prompts, sizes = policy.without_weights(config, workdir, run_data.texts(config, list(data)))
    kept, _ = prompt_lengths.select({config.data.split: list(data)}, prompts, workdir)
    with Grader(
        config.reward, weights=config.reward_weights, rounding=config.reward_rounding, **config.grading
    ) as grader:
        stream = Stream(data, split=config.data.split, seed=config.seed, kept=kept[config.data.split])
        source = batches.Questions(config, stream, prompts)
        questions = inspect_data.questions(config, source, prompts, grader, count)
        stats = inspect_data.data_stats(config, list(data), prompts, grader, workdir)
    lines, fills = facts(config, questions, stats), inspect_data.fills(config, sizes, prompts, stats.prompts)
    body = [
        element("h1", f"Before the run {workdir.name}"),
        element("ul", *(element("li", text, class_="alarm" if alarm else "fact") for text, alarm in lines)),
        *_named("Invalid records", stats.faults),
        *_named("Records whose true answer does not count as right", stats.unrewarded),
        *_shapes(config, stats, fills),
        element("h2", "The first questions"),
        *(_card(prompts, question) for question in questions),
    ]
    files.write(workdir / FILE, html.page("Inspection", body, STYLE))
    return "\n".join([text for text, _ in lines] + [f"wrote {workdir / FILE}"])


def facts(config: ConfigDict, questions: Sequence[InspectedQuestion], stats: DataStats) -> list[tuple[str, bool]]:
    """The summary's lines, each with whether it is an alarm."""
    inspected = [inspected for question in questions for inspected in question.orders]
    unranked, tokens = sum(not each.best for each in inspected), stats.tokens
    lengths = f"{tokens.mean():.0f} tokens on average, {tokens.max()} at most" if len(tokens) else "no tokens"
    return [
        (
            f"{len(questions)} questions in {len(inspected)} orders; a wrong answer earns as much as the true one in "
            f"{unranked} (reward {config.reward})",
            unranked > 0,
        ),
        (
            f"{len(tokens) + len(stats.faults)} of {stats.size} records sampled: {len(stats.faults)} are invalid",
            bool(stats.faults),
        ),
        (
            f"prompts have {lengths}; {inspect_data.too_long(config, stats):.1%} are left out: longer than "
            f"config.prompt.max_tokens = {config.prompt.max_tokens}",
            False,
        ),
        (
            f"the true answer does not count as right in {len(stats.unrewarded)} of {len(tokens)} records",
            bool(stats.unrewarded),
        ),
    ]


def _named(title: str, names: Sequence[str]) -> list[Html]:
    some = "\n".join([*names[:NAMED], *[f"… and {len(names) - NAMED} more"] * (len(names) > NAMED)])
    return [folded(f"{title}: {len(names)}", element("div", some, class_="text"))] if names else []


def _shapes(config: ConfigDict, stats: DataStats, fills: Sequence[Fill]) -> list[Html]:
    """Prompt and image lengths, and padding."""
    plots = [
        ("records by prompt tokens", stats.tokens, config.prompt.max_tokens),
        ("images by patches", stats.patches, None),
    ]
    figures = [
        element("figure", element("figcaption", title), _histogram(values, limit))
        for title, values, limit in plots
        if len(values)
    ]
    rows = [
        [fill.name, fill.shape, f"{fill.tokens:.0%}", "–" if fill.images is None else f"{fill.images:.0%}"]
        for fill in fills
    ]
    header = ["", "shape", "real tokens", "real patches"]
    explanation = (
        "The share of a step's padded shapes that is not padding (rollout: prompts x tokens; update: micro-batches x "
        "rows x tokens), on one device, with questions of the sample. Response lengths are not known yet: the shortest "
        "is a bare answer, the longest has config.sampling.max_new_tokens tokens."
    )
    return [
        element("h2", "Lengths and shapes"),
        element("div", *figures, class_="plots"),
        table(header, rows, "figures"),
        note(explanation),
    ]


def _histogram(values: np.ndarray, limit: int | None) -> Html:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    axes = figure.subplots()
    width = -(-(int(np.ptp(values)) + 1) // 30)
    axes.hist(values, np.arange(values.min(), values.max() + width + 1, width) - 0.5, color="#0b5fb3")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if limit is not None and limit < 1.5 * values.max():
        axes.axvline(limit, color="#d55e00")
        axes.annotate("limit", (limit, 0.95), xycoords=("data", "axes fraction"), color="#d55e00", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return html.plot(figure)


# Questions


def _card(prompts: Prompts, question: InspectedQuestion) -> Html:
    record = question.record
    subtitle = f"step {question.step} ({question.stage}) · {record['source']} · {record['kind']}"
    title = element("h3", f"{record['id']} ", dim(subtitle), " ", tag(record["order_effect"]))
    total = sum(inspected.times for inspected in question.orders)
    sides = [
        element(
            "div",
            *_order_tags(question, inspected, total),
            _image_figures(prompts, record, inspected),
            _rewards(inspected),
            _tokens(prompts.processor, inspected.prompt[0]),
        )
        for inspected in question.orders
    ]
    return element("div", title, element("div", *sides, class_="sides"), class_="card")


def _order_tags(question: InspectedQuestion, inspected: InspectedOrder, orders: int) -> list[Html]:
    """Which order this is, and whether the step draws it."""
    is_original = inspected.order == permute.original_order(len(inspected.order))
    name = "the original order" if is_original else "order " + " ".join(str(image + 1) for image in inspected.order)
    if not inspected.times:
        return [tag(name), dim("not drawn by this step, shown for comparison")]
    return [tag(name), dim(f"{inspected.times} of the step's {orders} orders, p = {question.probability:.2f}")]


def _image_figures(prompts: Prompts, record: permute.Sample, inspected: InspectedOrder) -> Html:
    """The images as the model gets them, in this order."""
    vision, figures = prompts.processor.vision, []
    for image in inspected.prompt[1]:
        resized = images.resized(image, vision, **prompts.limits)
        size = resized.size
        columns, rows = (side // vision.patch_size for side in size)
        original = record["images"].index(image)
        place = inspected.order.index(original)
        moved = f", was Image {original + 1}" if original != place else ""
        merged = rows * columns // vision.spatial_merge_size**2
        lines = [
            f"Image {place + 1}{moved}",
            f"{image.width} x {image.height} → {size[0]} x {size[1]} pixels",
            f"{columns} x {rows} = {rows * columns} patches, {merged} tokens",
        ]
        caption = element("figcaption", lines[0], *(concat(Html("<br>"), line) for line in lines[1:]))
        figures.append(element("figure", html.thumbnail(resized, lines[0]), caption))
    return element("div", *figures, class_="thumbs")


def _rewards(inspected: InspectedOrder) -> Html:
    """The rewards of the true answer and wrong ones; red where a wrong one is not below the true one."""
    true = inspected.scores[0]["reward"]
    parts = sorted({part for score in inspected.scores for part in score} - {"reward"})
    rows = []
    for number, (answer, score) in enumerate(zip(inspected.answers, inspected.scores)):
        bad = not inspected.best if number == 0 else score["reward"] >= true
        colour = {"class_": "alarm"} if bad else {"class_": "right"} if number == 0 else {}
        cells = [element("td", answer or "(empty)", class_="text" + " alarm" * bad)]
        cells += [element("td", f"{score.get(part, 0.0):.2f}", **colour) for part in ("reward", *parts)]
        rows.append(["true" if number == 0 else "wrong", *cells])
    return table(["", "answer", "reward", *parts], rows, "words")


def _tokens(processor: models.Processor, ids: Sequence[int]) -> Html:
    """The prompt token by token, with special tokens; runs of image tokens are counted.

    A character of several tokens is shown as a whole.
    """
    special, parts, pending = processor.tokenizer.added_tokens_decoder, [], []
    runs = 0
    for place, token in enumerate(ids):
        if token == processor.image_token_id:
            runs += 1
            if place + 1 == len(ids) or ids[place + 1] != token:
                parts.append(element("b", f"{special[token].content} x {runs}"))
                runs = 0
            continue
        pending.append(token)
        text = processor.tokenizer.decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if "\ufffd" in text and len(pending) < 4 and place + 1 < len(ids) and ids[place + 1] not in special:
            continue
        number = " ".join(map(str, pending))
        parts.append(element("b" if token in special else "span", text.replace("\n", "↵\n"), title=number))
        pending = []
    return concat(dim(f"{len(ids)} tokens"), element("div", *parts, class_="text tokens"))
