"""The default config of all experiments, as in the paper (PeRL, section 4) wherever it states a value.

Other configs call this `get_config()` and change values. Keys are locked, except those of `scratch`, `data.options` and
`reward_weights`: an unknown key is an error.
"""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict(
        {
            # The policy: a Hugging Face directory or hub id; if empty, a new model with the sizes of `scratch`.
            "model": "",
            "scratch": ConfigDict(),
            "compute_dtype": "bfloat16",  # of activations and frozen weights; trained weights are float32
            "attention": "auto",  # in prefill and update: kernels where there are any, else xla; or xla; or kernel
            "train_vision": True,
            # With a rank above 0 only LoRA adapters train, on linear layers whose whole path matches `targets`: here
            # those of the text tower; "visual.blocks.attn.qkv" is one of the vision tower.
            "lora": {"rank": 0, "alpha": 32, "targets": r"model\.layers\.(self_attn|mlp)\..*"},
            # Questions: a directory of records or a mixture, "DIR=22,DIR2=36", whose ids become 1:ID and 2:ID; without
            # one a built-in source, written to WORKDIR/data with `options`.
            "data": {
                "directory": "",
                "source": "",
                "options": ConfigDict(),
                "split": "train",
                # The order that stands for a question's original one, rewritten: the stored one (none), one random
                # order for good (once), a new one at each draw (fresh), or so for half of the draws (half).
                "shuffle": "none",
            },
            "prompt": {
                "system": "You are a helpful assistant.",
                "instruction": "Reason inside <think> </think>, then give the final answer in \\boxed{}.",
                "min_pixels": 3136,
                "max_pixels": 262144,
                "max_tokens": 8192,  # records with longer prompts are excluded at the start, and logged
            },
            "seed": 0,
            # Devices by mesh axis (see perl_jax/mesh.py); -1: all remaining devices.
            "mesh": {"slice": 1, "data": 1, "fsdp": -1, "tensor": 1},
            "max_padding": 0.25,  # largest share of empty rows in a rollout, since all shards have equally many
            # Supervised stage before PeRL, on reference answers, never permuted.
            "warmup": {
                "steps": 0,
                "questions": 64,
                "learning_rate": 1e-3,  # peak after linear warm-up; cosine decay to a tenth
                "response": "<think>{captions}</think>\\boxed{{answer}}",
                "caption": "Image {place} shows {caption}. ",  # of each image, where records have captions
            },
            # PeRL: groups of (n_s + 1) orders x `rollouts` responses; n_s = 0 is GRPO.
            "total_steps": 900,
            "questions": 128,
            "n_s": 1,
            "rollouts": 6,
            # The probability that an order is permuted goes from start to end: linear (the paper's) or cosine; or is
            # constant (start), or rising (linear from end to start). `canonical`: order 0 is always the original one.
            # `adaptive`: more for questions whose rewards depend on the order, less for others, the same in the mean.
            "permute": {
                "schedule": "linear",
                "start": 1.0,
                "end": 0.0,
                "warmup_steps": 0,
                "canonical": True,
                "adaptive": False,
            },
            "sampling": {
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": 0,
                "max_new_tokens": 2048,
                "batch": 0,  # most prompts decoded at a time, to bound KV cache memory; 0: all of a step
                # Devices along mesh.fsdp and mesh.tensor that hold a copy of the decoding weights together; 0: the
                # fewest that fit by planned memory.
                "tensor": 0,
            },
            "reward": "boxed",  # a file in perl_jax/rewards/, package.module:function, or path/file.py:function
            "reward_weights": ConfigDict(),  # by part, as reward_weights.accuracy=1.0; empty: the reward's own sum
            "reward_rounding": False,  # whether an answer rounded further than the reference is right: 2.5 for 2.45
            # Processes; seconds for a response, and for all of a step (what is unfinished then counts as failed); and
            # the largest share of a batch of responses whose reward may fail or take longer: above it the run stops,
            # and always if all of the first batch fail.
            "grading": {"workers": 2, "timeout": 10.0, "step_timeout": 600.0, "max_failed": 0.5},
            # After grading, times or plus the share of right responses to the question in its other orders; or off.
            "reward_consistency": "off",
            "advantage_scale": "std",
            "advantage_scope": "group",  # normalised over all orders (the paper's), over each `order`, or both's sum
            "online_filter": "off",  # groups of equal rewards: off (keep), drop, refill (draw others)
            "refill_rounds": 4,  # most batches of questions that `refill` draws for one step
            # DAPO's penalty of long responses, added to the reward: from 0 at `buffer` tokens before max_new_tokens to
            # -penalty there; 0: none.
            "overlong": {"buffer": 0, "penalty": 1.0},
            "loss": {
                "kind": "grpo",  # or gspo, cispo, sapo; gspo and sapo with aggregate = seq-mean-token-mean
                "clip_low": 0.2,
                "clip_high": 0.2,
                "dual_clip": 3.0,  # of grpo alone
                "kl_coef": 0.01,
                "entropy_coef": 0.0,
                # Weights for the sampler's log-probs where they differ from the update's: off, token, sequence.
                "importance": "off",
                "importance_cap": 2.0,
                "aggregate": "token-mean",
            },
            "max_sampler_gap": 0.1,  # a mean difference of these log-probs above which a step warns
            "optimizer": {
                "learning_rate": 1e-6,
                "b1": 0.9,
                "b2": 0.999,
                "mu_dtype": "float32",  # of the first moments; bfloat16 saves 2 bytes a weight
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                "steps_per_batch": 4,  # optimizer steps over disjoint questions of a batch
            },
            # An optimizer step sums gradients over micro-batches. The images of a micro-batch are encoded together; its
            # rows are computed in sequence, with the activations of one row in memory. Short prompts
            # share a row with their responses; prompts whose responses exceed a row are split by responses.
            "micro_batch": {"rows": 1, "row_tokens": 16384},
            # What the backward pass computes again: all of a layer (full); in the decoder all but products with weights
            # (dots); nothing (none); or auto: the fastest that fits by planned memory. True is full, False none.
            "remat": FieldReference("auto", field_type=object),
            # Held-out questions, answered greedily in original order and in `permute` uniformly drawn ones.
            "eval": {"sets": (), "every": 50, "limit": 500, "permute": 3, "batch": 256},
            # Saved every `every` steps, and after the first step that ends `minutes` after the save before; after each
            # evaluation and at the end. Kept: the newest `keep`, and the one with the highest metric `best` in its
            # evaluation (on the first of the sets; none without sets).
            "checkpoint": {"every": 50, "minutes": 10.0, "keep": 2, "best": "eval/permuted_accuracy"},
            "grace": 120.0,  # seconds that a step and its checkpoint may take after SIGTERM, SIGHUP or Ctrl-C
            # Largest share of the records, of 100 where there are fewer, that may fail in a run: then it stops.
            "max_skipped": 0.01,
            "max_bad_steps": 3,  # steps in a row with numbers that are not finite, each skipped, that end the run
            "log_groups": 2,  # groups written to rollouts.jsonl at each step
            "profile": "",  # steps to trace to WORKDIR/profile, as "10:12"; --profile_steps overrides it
        }
    ).lock()
    config.scratch.unlock()
    config.data.options.unlock()
    config.reward_weights.unlock()
    return config
