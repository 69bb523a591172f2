"""A real model for real parts, small enough for tests: a Llama of 2 layers over a vocabulary of words."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, Whitespace
from tokenizers.pre_tokenizers import Sequence as InTurn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from rewards.prompts import Message, Prompt
from trainer.update.model import encoder

END = "<|im_end|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", END, "<unk>")
WORDS = """
    0 1 2 3 4 5 6 7 8 9 . ! ? , : ; - + a b c d e f g h i j k l m n o p q r s t u v w x y z
    system user assistant Yes No yes no Is Answer greater less than or and the number What How
"""
VOCABULARY = (*SPECIAL, *WORDS.split())

TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)

CONTEXT = 256
"""Positions of the model."""

SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the smallest that vLLM's attention has on a CPU
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,  # far from the flat start, so that every token and position matters
}


def make_tiny_model(folder: Path, *, tied: bool = True, seed: int = 0, taught: bool = False) -> str:
    """Writes the model in Hugging Face format; the folder as text, as `model.path` takes it.

    tied: whether the head is the embeddings. taught: it has learnt to answer questions of `comparison` with Yes or
    No, at random, and to end its turn; else it says anything.
    """
    set_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        **SIZES,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).float()
    if taught:
        _teach(model, encoder(tokenizer), tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load_tiny_model(folder: str | Path) -> LlamaForCausalLM:
    """In float32, without dropout or gradients."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.requires_grad_(False).eval()
    return model


def random_prompt(length: int, seed: int = 0) -> Prompt:
    """A prompt of so many random words."""
    draw = random.Random(1000 * length + seed)
    ids = tuple(draw.randrange(len(SPECIAL), len(VOCABULARY)) for _ in range(length))
    words = " ".join(VOCABULARY[token] for token in ids)
    return Prompt(f"random-{length}-{seed}", ({"role": "user", "content": words},), {}, ids, words)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whose tokens are `VOCABULARY`, a word each."""
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = InTurn([Whitespace(), Digits(individual_digits=True)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=END,
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _teach(model: LlamaForCausalLM, encode: Callable[[Sequence[Message]], Sequence[int]], tokenizer: Any) -> None:
    """Supervised steps on questions with answers drawn by coin: the form, and nothing of the answers."""
    draw = random.Random(0)
    end = tokenizer.eos_token_id
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(60):
        rows = []
        for _ in range(32):
            left, right = draw.sample(range(10, 100), 2)  # of two digits, so that all rows are equally long
            question = f"Is {left} greater than {right}? Answer Yes or No."
            rows.append([*encode([{"role": "user", "content": question}]), draw.choice(answers), end])
        ids = torch.tensor(rows)
        logits = model(input_ids=ids, logits_to_keep=3).logits[:, :2]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
