"""Writes the tables of docs/cluster.md, the memory plans of configs/gpu: `python docs/write_cluster.py`."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from configs.derived import derived
from configs.loading import load
from configs.schema import Config
from launch.memory_plan import GIB, Hardware, Load, MemoryPlan, memory_plan
from trainer.update.lora import adapter_size
from trainer.update.model_shape import ModelShape, model_shape

PAGE = Path(__file__).with_name("cluster.md")

RECIPES = Path(__file__).parents[1] / "configs" / "gpu"

GPUS = {
    "qwen3-0.6b": (1, 80e9),
    "qwen3-4b": (1, 141e9),
    "qwen3-8b-lora": (1, 80e9),
    "qwen3-8b": (8, 80e9),
    "qwen3-8b-shared": (8, 80e9),
    "qwen3-32b": (16, 80e9),
}
"""What each recipe is for: GPUs, and bytes of each."""

MODELS = {
    "Qwen/Qwen3-0.6B": (28, 1024, 3072, 16, True),
    "Qwen/Qwen3-4B": (36, 2560, 9728, 32, True),
    "Qwen/Qwen3-8B": (36, 4096, 12_288, 32, False),
    "Qwen/Qwen3-32B": (64, 5120, 25_600, 64, False),
}
"""Of each model's config.json: num_hidden_layers, hidden_size, intermediate_size, num_attention_heads, and whether
the head is the embeddings. All have 8 key-value heads, heads of 128 elements and 151,936 tokens."""

TABLE = re.compile(r"(<!-- memory: (engine|rank) -->\n).*?(<!-- end -->)", re.DOTALL)


def shape(model: str) -> ModelShape:
    """Of one of `MODELS`."""
    layers, hidden, inner, heads, tied = MODELS[model]
    return model_shape(
        SimpleNamespace(
            num_hidden_layers=layers,
            hidden_size=hidden,
            intermediate_size=inner,
            num_attention_heads=heads,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151_936,
            tie_word_embeddings=tied,
        ),
        parameters=None,
    )


def linear(of: ModelShape) -> dict[str, tuple[int, int]]:
    """Shapes of its linear layers, by name."""
    hidden, inner = of.hidden_size, of.intermediate_size
    queries, keys = of.heads * of.head_dim, of.key_value_heads * of.head_dim
    attention = {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
    rest = {"o_proj": (hidden, queries), "gate_proj": (inner, hidden), "up_proj": (inner, hidden)}
    layer = attention | rest | {"down_proj": (hidden, inner)}
    return {f"layers.{index}.{name}": sizes for index in range(of.layers) for name, sizes in layer.items()}


def planned(recipe: str) -> tuple[MemoryPlan, Config]:
    """The recipe's plan on the GPUs that it is for, and its configuration with what follows from them."""
    gpus, gpu_bytes = GPUS[recipe]
    config = derived(load(RECIPES / f"{recipe}.yaml"), gpus)
    assert config.engine.max_model_len is not None
    load_ = Load(config.engine.max_model_len, config.training.micro_batch_tokens, bytes_per_node=None)
    of = shape(config.model.path)
    adapter = adapter_size(linear(of), config.training)
    return memory_plan(config, of, Hardware("bfloat16", gpus, gpu_bytes), load_, adapter=adapter), config


def written(page: str) -> str:
    """The page with its tables as planned."""
    plans = {recipe: planned(recipe)[0] for recipe in GPUS}
    return TABLE.sub(lambda place: f"{place[1]}\n{''.join(table(place[2], plans))}\n{place[3]}", page)


def table(process: str, plans: dict[str, MemoryPlan]) -> Iterator[str]:
    """A column for each recipe, a row for each part."""

    def row(name: str, cell: Callable[[MemoryPlan], str]) -> str:
        return f"| {name} | {' | '.join(cell(plan) for plan in plans.values())} |\n"

    def held(plan: MemoryPlan) -> dict[str, float]:
        return dict(plan.engine if process == "engine" else plan.rank)

    def room(plan: MemoryPlan) -> float:
        return plan.engine_room if process == "engine" else plan.rank_room

    yield f"| GiB | {' | '.join(f'`{recipe}`' for recipe in plans)} |\n"
    yield f"|---|{'---:|' * len(plans)}\n"
    yield row("processes", lambda plan: str(plan.engines if process == "engine" else plan.ranks))
    for part in held(next(iter(plans.values()))):
        yield row(part, lambda plan, part=part: f"{held(plan)[part] / GIB:.1f}")  # type: ignore[misc]
    yield row("**all**", lambda plan: f"**{sum(held(plan).values()) / GIB:.1f}**")
    yield row("room on its GPU", lambda plan: f"{room(plan) / GIB:.1f}")
    if process == "engine":
        yield row("tokens with keys and values", lambda plan: f"{plan.cached_tokens:,}")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
