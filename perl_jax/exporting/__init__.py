"""What stands beside exported weights: the model card, where a run's parts came from, code to use them."""
