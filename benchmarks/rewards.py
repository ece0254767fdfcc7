"""Rewards of `benchmarks.kills` and `benchmarks.soak`; a module of their own, since each worker imports it."""

import os
import time
import zlib


def distinct(record, text: str) -> dict[str, float]:
    """Tells most texts apart, and the orders of a question, so that an untrained model has something to learn."""
    code = sum(text.encode()) + ord(record["answer"][-1])
    return {"reward": code % 5 / 4, "accuracy": float(code % 5 > 2)}


def troubled(record, text: str) -> dict[str, float]:
    """Of 1,000 responses about one hangs, one kills its worker, two raise, and twenty are slow."""
    chance = zlib.crc32(f"{record['id']} {text}".encode()) % 1000
    if chance == 0:
        time.sleep(3600)
    if chance == 1:
        os._exit(1)
    if chance in (2, 3):
        raise ValueError("a reward that fails")
    if chance < 24:
        time.sleep(0.1)
    return distinct(record, text)
