"""A batch: what its responses are worth (drawing and refilling are tested in whole runs, in test_train.py)."""

import numpy as np
import tiny_run

from perl_jax import rewards, rollout
from perl_jax.records import prompts
from perl_jax.training import batch


def test_a_cut_response_fails_the_format():
    """Told by its last token, whatever its text says."""

    class Processor:
        eos_ids = (9,)

        def decode(self, tokens):
            return "<think></think>\\boxed{1}"

    class Grader:
        failed = 0

        def grade(self, pairs):
            return [rewards.find("boxed")(sample, text) for sample, text in pairs]

    config = tiny_run.config(n_s=0, rollouts=2)
    record = {"id": "a", "source": "s", "kind": "number"}
    question = batch.Question(record, [(0,)], [{**record, "answer": "1"}], None)
    source = batch.Source(config, None, prompts.Prompts(Processor(), "", "", 1, 1, 9), Grader())
    out = rollout.Rollouts(np.array([[[1, 9], [1, 1]]]), *np.zeros((2, 1, 2, 2), np.float32), np.array([[2, 2]]))
    grading = batch.Grading(source, [question])
    for g in (1, 0):  # as they end
        grading(0, g, out.tokens[0, g])
    scores = grading.scores()
    np.testing.assert_allclose(scores.rewards, [[[1.0, 0.9]]])
    graded = batch.batch_from_rollouts(config, 0.0, [question], out, scores, np.array([[[1.0, -1.0]]]))
    assert [[tokens.tolist() for tokens in order] for order in graded.responses[0]] == [[[1, 9], [1, 1]]]
    assert graded.log["response/truncated"] == 0.5 and graded.log["reward/format"] == 0.5


def test_long_responses_are_penalised():
    """In their rewards, and as a part of their own; the mean reward does without it, and so does accuracy."""
    config = tiny_run.config(**{"sampling.max_new_tokens": 20, "overlong.buffer": 10, "overlong.penalty": 0.5})
    parts = [{"reward": 1.0, "accuracy": 1.0}] * 4
    ones = np.ones((1, 2, 2), np.float32)
    scores = batch.Scores(ones, ones > 0, ones > 0, [], parts, 0)
    ours = batch.with_penalty(config, scores, np.array([[10, 15], [20, 3]]))
    np.testing.assert_allclose(ours.rewards, [[[1.0, 0.75], [0.5, 1.0]]])
    assert [part["overlong"] for part in ours.parts] == [0.0, -0.25, -0.5, 0.0]
    assert all(part["reward"] == 1.0 for part in ours.parts) and ours.correct.all()
    config.overlong.buffer = 0
    assert batch.with_penalty(config, scores, np.array([[10, 15], [20, 3]])) is scores


def made(names: str, advantages: list[float]) -> batch.Batch:
    """A batch of one order and two rollouts a question."""
    rows = np.array([[[a, -a]] for a in advantages])
    lists = [[f"{kind}{name}" for name in names] for kind in "qrst"]
    return batch.Batch(*lists, rows + 1, rows, {"of": names})


def test_rounds_of_an_online_filter_become_one_batch():
    rounds = [batch.with_signal(made("abc", [1, 0, 2])), batch.with_signal(made("de", [0, 3]))]
    joined = batch.concat_rounds(rounds, 9)
    assert joined.questions == ["qa", "qc", "qe"] and joined.texts == ["ta", "tc", "te"]
    np.testing.assert_array_equal(joined.advantages[:, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(joined.rewards[:, 0, 1], [0, -1, -2])
    assert joined.log == {"of": "abc", "group/kept": 3, "group/rounds": 2}
    assert (
        batch.concat_rounds(rounds, 2).questions == ["qa", "qc"]
        and batch.concat_rounds(rounds, 2).log["group/kept"] == 2
    )
    nothing = batch.concat_rounds([batch.with_signal(made("a", [0]))], 2)
    assert nothing.questions == [] and nothing.rewards.shape == (0, 1, 2) and nothing.log["group/kept"] == 0
