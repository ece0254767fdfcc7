"""Workdirs of training runs written by tests: complete, truncated and with hostile content."""

import json

ATTACK = "<script>alert('x')</script>"


def lines(file, rows, end=""):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(each) + "\n" for each in rows) + end)


def predictions(right, text=ATTACK, questions=10):
    """Two orders of each question: the first `right` are correct in both, the next one in original order only."""
    return [
        {
            "id": f"q{q}",
            "source": "which",
            "order": order,
            "original": order == [0, 1],
            "images": 2,
            "text": f"{text} of {q}",
            "answer": str(order.index(0) + 1),
            "meaning": "1" if right_here else "2",
            "correct": right_here,
        }
        for q in range(questions)
        for order in ([0, 1], [1, 0])
        for right_here in [q < right or (q == right and order == [0, 1])]
    ]


def write_run(path, right=5, seconds=1.5, steps=4, evaluated=(0, 4)):
    """A run of four steps, restarted after the second, which it repeats, and killed in its last line."""
    metrics = [
        {
            "stage": "perl",
            "step": step,
            "time/total": seconds,
            "reward/mean": step / 10,
            "update/entropy": 0.5,
            "permute/probability": 1 - step / steps,
            "update/kl": 0.0,
        }
        for step in (1, 2, *range(2, steps + 1))
    ]
    metrics[1] |= {"time/total": 1000.0, "reward/mean": 77.0}
    metrics.append({"stage": "perl", "step": 4, "eval/permuted_accuracy": right / 10})
    lines(path / "metrics.jsonl", metrics, end='{"stage": "perl", "step": 5, "time/to')
    for step in evaluated:
        lines(path / "evaluations" / f"eval-{step:08d}.jsonl", predictions(right if step else 1))
    group = {
        "stage": "perl",
        "id": "q0",
        "orders": [[0, 1], [1, 0]],
        "questions": [f"Where? {ATTACK}"] * 2,
        "responses": [[ATTACK, "b"], ["c", "half a pair \ud800"]],
        "rewards": [[1.0, 0.0], [0.0, 0.0]],
        "advantages": [[1.5, -0.5], [-0.5, -0.5]],
    }
    lines(path / "rollouts.jsonl", [{**group, "step": step} for step in range(9)])
    start = {
        "config": {"note": ATTACK},
        "command": ["train.py", "--config=x"],
        "commit": "abc123",
        "clean": False,
        "versions": {"jax": "0.10.2"},
        "device": "1 x cpu",
        "time": "now",
    }
    (path / "run.json").write_text(json.dumps([start, {**start, "clean": True}]))
    return path
