"""Ahead-of-time compilation of a run's programs for other devices, and roofline estimates."""
