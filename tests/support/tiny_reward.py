"""Test rewards that give a signal for any text, so that an untrained model can learn; workers import them by name."""


def score(record, text: str) -> dict[str, float]:
    """Distinguishes most texts, and the orders of a question."""
    code = sum(text.encode()) + len(record["answer"]) + ord(record["answer"][-1])
    return {"reward": code % 5 / 4, "accuracy": float(code % 5 > 2), "format": 1.0}


def nothing(record, text: str) -> float:
    """No signal: every group has equal rewards."""
    return 0.0


def rare(record, text: str) -> float:
    """A signal in one of three questions only."""
    return 0.0 if int(record["id"].split("-")[-1]) % 3 else score(record, text)["reward"]


def easy(record, text: str) -> dict[str, float]:
    """Four of five responses to one kind of question are correct, two of five for the others."""
    right = float(sum(text.encode()) % 5 > (0 if record["source"] == "digits_what" else 2))
    return {"reward": right, "accuracy": right}
