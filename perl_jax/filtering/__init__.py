"""The rollout filter: how often the base model is right on a record, and which records that keeps."""
