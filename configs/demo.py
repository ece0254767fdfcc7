"""The demo: a small Qwen2.5-VL or Qwen3-VL, trained from scratch on several images of digits, on two CPU cores.

Command:   bash launch/demo.sh            (warm-up, then four arms from its checkpoint, and the table)
           bash launch/demo.sh qwen3_vl   (the same of the other family)
One run:   python -m perl_jax.train --config=configs/demo.py --workdir=demo/run      (warm-up, then PeRL)
           --config=configs/demo.py:qwen3_vl
One part:  --config=configs/demo.py:ARM with ARM one of warm-up, grpo, grpo-shuffled, perl, recommended, or FAMILY,ARM;
           an arm also needs --config.model=(exported warm-up) --config.data.directory=(its data)
Hardware:  2 CPU cores, 8 GiB
Result:    the table in README.md
"""

from configs import base

VISION = {"depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
TEXT = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "mrope_section": (4, 4, 4),
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
FAMILIES = {
    "qwen2_5_vl": {"vision": {**VISION, "window_size": 28, "fullatt_block_indexes": (2,)}, "text": TEXT},
    "qwen3_vl": {
        "vision": {**VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": (0, 1)},
        "text": {**TEXT, "head_dim": 24},
    },
}
ARMS = ("warm-up", "grpo", "grpo-shuffled", "perl", "recommended")


def get_config(parts: str = ""):
    """`parts` may be a family, an arm, or both with a comma; by default Qwen2.5-VL, warm-up and PeRL in one run."""
    family, arm = "qwen2_5_vl", ""
    for part in filter(None, parts.split(",")):
        if part in FAMILIES:
            family = part
        elif part in ARMS:
            arm = part
        else:
            known = f"it has {', '.join(ARMS)}, and the families {', '.join(FAMILIES)}"
            raise ValueError(f"configs/demo.py has no arm {part!r}; {known}")
    config = base.get_config()
    config.scratch = {"model_type": family, **FAMILIES[family]}
    config.compute_dtype = "float32"
    config.data.source = "digits"
    config.data.options = {
        "train_size": 12000,
        "eval_size": 400,
        "bias": 0.8,
        "max_images": 3,
        "questions": "which,what,largest,single",
    }
    config.prompt.system = "Look."
    config.prompt.instruction = ""
    config.prompt.max_tokens = 128
    config.warmup.steps = 300
    config.warmup.questions = 64
    config.warmup.learning_rate = 3e-3
    config.warmup.caption = "{place}:{caption} "
    config.total_steps = 60
    config.questions = 64
    config.rollouts = 4
    config.sampling.max_new_tokens = 24
    config.loss.kl_coef = 0.0
    config.optimizer.learning_rate = 3e-4
    config.optimizer.b2 = 0.95
    config.optimizer.steps_per_batch = 1
    config.micro_batch.rows, config.micro_batch.row_tokens = 8, 256
    config.remat = "none"
    config.eval.sets = ("eval",)
    config.eval.every = 150
    config.eval.limit = 400
    config.checkpoint.every = 40
    if arm == "warm-up":
        config.total_steps = 0
    elif arm:
        config.warmup.steps = 0
        config.data.split = "train[:1000]"  # few questions that repeat, as in real training
    if arm.startswith("grpo"):  # as many rollouts per question as PeRL, all in one order
        config.n_s, config.rollouts = 0, 2 * config.rollouts
        config.data.shuffle = "once" if arm == "grpo-shuffled" else "none"
    elif arm == "recommended":  # permuted to the end: benchmarks/EVIDENCE.md
        config.permute.schedule = "constant"
    return config
