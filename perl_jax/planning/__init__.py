"""A run's programs compiled for devices that are not at hand, and its time by roofline."""
