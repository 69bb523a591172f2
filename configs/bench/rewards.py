"""The reward of the stories."""


def mentions(completions: list[list[dict[str, str]]], animal: list[str], **kwargs: object) -> list[float]:
    """1 for a story with its animal in it."""
    return [float(name in one[0]["content"]) for one, name in zip(completions, animal, strict=True)]
