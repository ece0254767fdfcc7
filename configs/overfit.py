"""Eight of your questions, again and again, in their stored order: a run that learns anything learns these.

Command:   python -m perl_jax.train --config=overfit --config.model=MODEL --config.data.directory=DIR --workdir=WORKDIR
Data:      the first eight records of the split train; other ones by --config.data.split='train[40:48]'
Hardware:  what trains the model (benchmarks/PLANS.md); adapters by --config.lora.rank=64 and a learning rate of 1e-4
Expected:  reward/mean at 0.95 within 100 steps, less what questions take off that are never answered right
           (group/all_wrong); where it is not, data or reward is wrong (docs/troubleshooting.md)
Result:    on 2 CPU cores with the demo's small model, its prompt and limits, and a learning rate of 3e-4: from 0.87 to
           0.99; in shuffled order from 0.66 to 0.88, one of the eight never answered right. No published model was run
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.split = "train[:8]"
    config.questions = 8
    config.n_s, config.rollouts = 0, 8
    config.total_steps = 100
    config.prompt.max_tokens = 4096
    config.sampling.max_new_tokens = 1024
    config.micro_batch.row_tokens = 5120  # fits the longest prompt and response
    config.loss.kl_coef = 0.0  # nothing holds the policy back, and there is no reference to keep in memory
    config.optimizer.learning_rate = 1e-5
    config.optimizer.weight_decay = 0.0
    config.optimizer.steps_per_batch = 1
    config.checkpoint.every = 100
    config.log_groups = 8  # all of them, to read
    return config
