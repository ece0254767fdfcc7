"""The demo: a small Qwen2.5-VL, trained from scratch on several images of handwritten digits, on two CPU cores.

Command:   bash launch/demo.sh            (warm-up, then three arms from its checkpoint, and the table)
One run:   python -m perl_jax.train --config=configs/demo.py --workdir=demo/run      (warm-up, then PeRL)
One part:  --config=configs/demo.py:ARM with ARM one of warm-up, grpo, grpo-shuffled, perl; an arm also needs
           --config.model=(exported warm-up) --config.data.directory=(its data)
Hardware:  2 CPU cores, 8 GiB
Result:    the table in README.md
"""

from configs import base

SIZES = {
    "vision": {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "window_size": 28,
        "fullatt_block_indexes": (2,),
    },
    "text": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "mrope_section": (4, 4, 4),
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
}


def get_config(arm: str = ""):
    config = base.get_config()
    config.scratch = SIZES
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
    elif arm in ("grpo", "grpo-shuffled", "perl"):
        config.warmup.steps = 0
    elif arm:
        raise ValueError(f"configs/demo.py has no arm {arm!r}; it has warm-up, grpo, grpo-shuffled and perl")
    if arm.startswith("grpo"):  # as many rollouts per question as PeRL, all in one order
        config.n_s, config.rollouts = 0, 2 * config.rollouts
        config.data.fixed_shuffle = arm == "grpo-shuffled"
    return config
