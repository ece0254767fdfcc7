from run_workdirs import predictions

from perl_jax.evaluation import statistics, training_runs, verdict


def result(name, right, questions=40):
    return statistics.Result(name, 4, predictions(right, questions=questions), 1.0)


def test_the_sentence_says_what_is_separated():
    results = [result("warm-up", 2), result("GRPO", 18), result("shuffled", 39), result("PeRL", 20)]
    assert verdict.sentence(results) == (
        "PeRL answers 50.0% in other orders of the images, more than warm-up, less than shuffled, no different from "
        "GRPO; and 52.5% in the original order, more than warm-up, less than shuffled, no different from GRPO."
    )


def test_several_names():
    [warm, *others] = [result(name, 1) for name in ("a", "b", "c")]
    assert "more than a, b and c; and" in verdict.sentence([warm, *others, result("d", 39)])
    assert "more than a and b; and" in verdict.sentence([warm, others[0], result("d", 39)])


def test_one_run_is_compared_with_none():
    assert verdict.sentence([result("PeRL", 20)]) == (
        "PeRL answers 50.0% in other orders of the images; and 52.5% in the original order."
    )


def test_runs_that_cannot_be_compared():
    """Without questions in several orders, not evaluated yet, or on other questions than the last."""
    alone = [row for row in predictions(3) if row["original"]]
    empty, one_order = (statistics.Result(name, 0, rows, 1.0) for name, rows in (("empty", []), ("one", alone)))
    for results in ([empty], [one_order], [result("a", 3), empty]):
        assert verdict.sentence(results) == ""
    assert verdict.plot([empty, one_order]) is None
    others = [{**row, "id": f"other {row['id']}"} for row in predictions(9)]
    told = verdict.sentence([empty, statistics.Result("other", 4, others, 1.0), result("last", 20)])
    assert "other," not in told and "empty" not in told and told.startswith("last answers 50.0%")


def test_the_plot():
    drawn = verdict.plot([result("a", 3), statistics.Result("empty", 0, [], 1.0), result("b", 20)])
    assert drawn.startswith('<img alt="" src="data:image/svg+xml;base64,')


def test_the_page_begins_with_it():
    runs = [
        training_runs.Run(name, [], {}, {"eval": {4: predictions(right, questions=40)}}, [])
        for name, right in (("GRPO", 3), ("<b>PeRL", 30))
    ]
    first, *_ = training_runs.opening(runs)
    assert "&lt;b&gt;PeRL answers 75.0% in other orders of the images, more than GRPO" in first
    assert training_runs.markdown(runs).startswith("**<b>PeRL answers 75.0%")
    assert training_runs.opening([training_runs.Run("none", [], {}, {}, [])]) == []
