"""The rollout filter: measures the base model's accuracy on each record, and selects records by it."""
