"""What a training run is made of: its data, batches, schedule, metrics, checkpoints, held-out questions."""
