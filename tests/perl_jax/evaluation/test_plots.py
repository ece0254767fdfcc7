"""Plots are drawn of whatever results there are, and hold no text of models."""

import base64

import evaluation_results
import pytest
from markup import Tags

from perl_jax.evaluation import comparison, plots, results


def read(directory, name="a$b_$"):
    return results.read(name, directory)


def drawn(models):
    figures = plots.figures(models, comparison.keys(models))
    sources = [value for figure in figures for name, value in Tags(figure).attributes if name == "src"]
    return [Tags(figure).words for figure in figures], [base64.b64decode(each.split(",")[1]) for each in sources]


@pytest.mark.filterwarnings("error")
def test_all_plots(tmp_path):
    sampled = evaluation_results.rows(5, permuted=(4, 2), control=True, samples=2)
    one = evaluation_results.write(tmp_path / "one", evaluation_results.rows(5, permuted=(4, 2)), "d")
    two = evaluation_results.write(tmp_path / "two", sampled, "d", samples=2)
    evaluation_results.write(two, evaluation_results.rows(7), "d", benchmark="my $own_$")
    titles, svgs = drawn([read(one), read(two)])
    assert [title.split(";")[0].split(",")[0] for title in titles] == [
        "accuracy",
        "flip rate ●",
        "accuracy by place of the decisive image: blink",
    ]
    assert all(svg.startswith(b"<?xml") for svg in svgs) and len(svgs) == 3
    assert b"#8c959f" in svgs[0]  # what is printed for BLINK


def test_without_orders_there_is_accuracy_alone(tmp_path):
    titles, _ = drawn(
        [read(evaluation_results.write(tmp_path / "one", evaluation_results.rows(5), "d", benchmark="records"))]
    )
    assert len(titles) == 1


def test_more_models_than_colours(tmp_path):
    out = evaluation_results.write(tmp_path / "one", evaluation_results.rows(5, permuted=(5, 5)), "d")
    assert len(drawn([read(out, str(i)) for i in range(9)])[1]) == 3


def test_no_question_at_all(tmp_path):
    titles, [svg] = drawn([read(evaluation_results.write(tmp_path / "one", [], "d"))])
    assert svg and titles[0].startswith("accuracy")
