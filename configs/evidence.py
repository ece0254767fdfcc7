"""The runs of benchmarks/evidence.py: arms that differ in how images are permuted, at equal rollouts and updates.

Command:   python -m benchmarks.evidence                (all of them, in pieces)
One arm:   python -m perl_jax.train --config=configs/evidence.py:warm-up --workdir=runs/warm-up
           python -m perl_jax.export --workdir=runs/warm-up --out=runs/warm-up/model
           python -m perl_jax.train --config=configs/evidence.py:ARM,QUESTIONS --workdir=runs/arm \
               --config.model=runs/warm-up/model --config.data.directory=runs/warm-up/data
           with an arm of `ARMS`, trained on the first QUESTIONS records
Hardware:  1 CPU core a run, 2 GiB
Result:    benchmarks/EVIDENCE.md
"""

from configs import demo

ROLLOUTS = 8  # a question, over all its orders
GRPO = {"n_s": 0, "rollouts": ROLLOUTS}
CONSTANT = {"permute.schedule": "constant"}
ARMS: dict[str, dict[str, object]] = {
    "warm-up": {},
    "grpo": GRPO,
    "shuffle-once": {**GRPO, "data.shuffle": "once"},
    "shuffle-fresh": {**GRPO, "data.shuffle": "fresh"},
    "shuffle-half": {**GRPO, "data.shuffle": "half"},
    "perl": {},  # the paper's: linear decay
    "perl-constant": CONSTANT,
    "perl-constant-order": {**CONSTANT, "advantage_scope": "order"},
    "perl-constant-both": {**CONSTANT, "advantage_scope": "both"},
    "perl-constant-times": {**CONSTANT, "reward_consistency": "times"},
    "perl-constant-plus": {**CONSTANT, "reward_consistency": "plus"},
    "perl-constant-drawn": {**CONSTANT, "permute.canonical": False},
    "perl-cosine": {"permute.schedule": "cosine"},
    "perl-rising": {"permute.schedule": "rising"},
    "perl-adaptive": {"permute.adaptive": True},
    "perl-constant-3": {**CONSTANT, "n_s": 3, "rollouts": ROLLOUTS // 4},
    "perl-constant-gspo": {**CONSTANT, "loss.kind": "gspo", "loss.aggregate": "seq-mean-token-mean"},
    "perl-constant-cispo": {**CONSTANT, "loss.kind": "cispo"},
    "perl-constant-sapo": {**CONSTANT, "loss.kind": "sapo", "loss.aggregate": "seq-mean-token-mean"},
    "perl-constant-refill": {**CONSTANT, "online_filter": "refill"},
}


def get_config(parts: str = "warm-up"):
    """`parts` is an arm of `ARMS`, and with a comma how many questions it trains on (default: all)."""
    arm, _, questions = parts.partition(",")
    if arm not in ARMS or (questions and not questions.isdigit()):
        raise ValueError(f"configs/evidence.py has no arm {parts!r}; it has {', '.join(ARMS)}, each as ARM,QUESTIONS")
    config = demo.get_config("warm-up" if arm == "warm-up" else "perl")
    config.data.options.eval_size = 800
    config.eval.limit = 800
    config.checkpoint.every = 1000
    if arm == "warm-up":
        return config
    config.total_steps = 120
    config.questions = 32
    config.rollouts = ROLLOUTS // 2
    config.update_from_flattened_dict(ARMS[arm])
    if questions:
        config.data.split = f"train[:{questions}]"
    config.eval.every = config.total_steps
    config.checkpoint.minutes = 1000.0
    config.log_groups = config.questions
    return config
