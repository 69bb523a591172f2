"""The reward function that a reward model is: rewards/function.py runs it, as it runs a user's own."""

from functools import cache
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

AT_ONCE = 16
"""Texts of a forward pass."""


def scores(prompts: list[Any], completions: list[Any], model: str) -> list[float]:
    """The model's one logit for each prompt with its completion, through its chat template where they are messages
    (as TRL's GRPOTrainer asks a reward model)."""
    classifier, tokenizer = _loaded(model)
    texts = [
        prompt + completion
        if isinstance(prompt, str)
        else tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    special = not prompts or isinstance(prompts[0], str)
    given: list[float] = []
    for first in range(0, len(texts), AT_ONCE):
        batch = tokenizer(
            texts[first : first + AT_ONCE],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=special,
        ).to(classifier.device)
        with torch.inference_mode():
            given += classifier(**batch).logits[:, 0].float().tolist()
    return given


@cache
def _loaded(name: str) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(name)
    classifier = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return classifier.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
