"""A reward with a signal for any text, so that an untrained model has something to learn; workers import it by name."""


def score(record, text: str) -> dict[str, float]:
    """Tells most texts apart, and answers to different orders of a question too."""
    code = sum(text.encode()) + len(record["answer"]) + ord(record["answer"][-1])
    return {"reward": code % 5 / 4, "accuracy": float(code % 5 > 2), "format": 1.0}


def nothing(record, text: str) -> float:
    """Groups without a signal, all of them."""
    return 0.0


def rare(record, text: str) -> float:
    """A signal in one of three questions only."""
    return 0.0 if int(record["id"].split("-")[-1]) % 3 else score(record, text)["reward"]


def easy(record, text: str) -> dict[str, float]:
    """Four of five answers to one kind of question are right, two of five to the others."""
    right = float(sum(text.encode()) % 5 > (0 if record["source"] == "digits_what" else 2))
    return {"reward": right, "accuracy": right}
