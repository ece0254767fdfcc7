"""Compares models and runs: `python -m perl_jax.report --results base=OUT --results PeRL=OUT --out report.html`.

Training runs are given as `--workdir GRPO=DIR --workdir PeRL=DIR`, alone or along with results. Prints Markdown tables
and writes them to report.md next to one self-contained HTML page. `evaluation.comparison` reports on benchmark results
(`perl_jax.evaluate`), `evaluation.training_runs` on training runs. The last one named is tested against the others.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from models.errors import InputError
from perl_jax.evaluation import comparison, results, training_runs
from perl_jax.runtime import bucket, cli, files, html
from perl_jax.runtime.html import element

FLAGS = flags.FLAGS


def parse_directories(flag: str, items: Sequence[str]) -> dict[str, Path]:
    """`["PeRL=runs/a", "runs/b"]` as {"PeRL": runs/a, "b": runs/b}. Raises InputError: no directory, a name twice."""
    out = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals or os.path.isdir(item) or bucket.is_url(item):
            name, path = os.path.basename(os.path.abspath(item)), item
        name = " ".join(name.split())
        if not name or not path:
            raise InputError(f"--{flag}={item}: give it as NAME=DIRECTORY or DIRECTORY")
        if not bucket.is_url(path) and not os.path.isdir(path):
            raise InputError(f"--{flag}={item}: {path} is not a directory")
        if name in out:
            raise InputError(
                f"--{flag}={item}: the name {name!r} is taken, by {out[name]}; give another one, as NAME={path}"
            )
        out[name] = bucket.brought(path)
    return out


def write(workdirs: Mapping[str, Path], results_directories: Mapping[str, Path], out: Path) -> str:
    """Writes the page `out` and its Markdown next to it, and returns the Markdown.

    Args:
        workdirs: training runs by name.
        evaluated: directories of results by name.
        out: the page.

    Raises:
        InputError: `out` is not named *.html, there is nothing to report, or files of another form.
    """
    if out.suffix != ".html":
        raise InputError(f"--out={out}: name it *.html; its tables are also written to *.md")
    models = [results.read(name, path) for name, path in results_directories.items()]
    runs = [training_runs.read(name, path) for name, path in workdirs.items()]
    if not models and not any(run.metrics or run.evaluations or run.groups for run in runs):
        raise InputError(
            f"nothing to report yet in {', '.join(map(str, workdirs.values()))}: "
            "no evaluations/, metrics.jsonl or rollouts.jsonl"
        )
    texts = ([comparison.markdown(models)] if models else []) + ([training_runs.markdown(runs)] if runs else [])
    text = "\n## Training runs\n\n".join(texts)
    for file, content in ((out, _page(models, runs)), (out.with_suffix(".md"), text)):
        files.write(file, content)
    return text


def _page(models: Sequence[results.Model], runs: Sequence[training_runs.Run]) -> str:
    """The whole report as one self-contained HTML file without scripts."""
    names = dict.fromkeys(each.name for each in (*models, *runs))
    body = [element("h1", "PeRL report: " + ", ".join(names)), *training_runs.opening(runs)]
    body += (comparison.body(models) if models else []) + (training_runs.body(runs) if runs else [])
    return html.page("PeRL report", body, comparison.STYLE + training_runs.STYLE)


def main(_: Sequence[str]) -> None:
    workdirs, results_directories = (
        parse_directories(flag, FLAGS[flag].value or ()) for flag in ("workdir", "results")
    )
    if not workdirs and not results_directories:
        raise InputError("nothing to report: give --results=NAME=DIRECTORY or --workdir=NAME=DIRECTORY")
    print(write(workdirs, results_directories, Path(FLAGS.out)))
    print(f"wrote {FLAGS.out}")


if __name__ == "__main__":
    flags.DEFINE_multi_string(
        "results",
        None,
        "What evaluate wrote (its --out), as NAME=DIRECTORY or DIRECTORY; may be repeated, the one to judge last.",
    )
    flags.DEFINE_multi_string(
        "workdir", None, "A run, as NAME=DIRECTORY or DIRECTORY; may be repeated, the one to judge last."
    )
    flags.DEFINE_string("out", "report.html", "HTML page to write; its tables are also written to *.md.")
    cli.run(main)
