"""Real photographs of all sizes, 2 to 6 a question, through every stage: the demo's small model on Mantis's own form.

Command:   python -m perl_jax.prepare --source=mantis --input=FOLDER --out=runs/mantis_chat-data
           python -m perl_jax.train --config=configs/mantis_chat.py --workdir=runs/mantis_chat
Hardware:  2 CPU cores, 8 GiB
Result:    a check of the machinery: in 20 steps of RL the reward went from 0.28 to 0.47 (3.5 minutes, 78 of 982
           question pairs kept), mostly by keeping the form of an answer; so small a model sees nothing in a photograph
"""

from configs import demo


def get_config():
    config = demo.get_config()
    config.data.source = ""
    config.data.directory = "runs/mantis_chat-data"
    config.prompt.max_pixels = 112 * 112
    config.prompt.max_tokens = 512
    config.micro_batch.rows, config.micro_batch.row_tokens = 4, 1024
    config.warmup.steps = 60
    config.warmup.questions = 16
    config.total_steps = 20
    config.questions = 8
    config.eval.sets = ()
    return config
