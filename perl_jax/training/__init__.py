"""Parts of a training run: data, batches, schedule, metrics, checkpoints, held-out evaluation."""
