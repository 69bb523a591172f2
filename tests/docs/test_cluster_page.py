"""docs/cluster.md has the recipes of configs/gpu, with the memory that is planned for them."""

import re
import runpy
from pathlib import Path

import pytest

from configs.derived import derived
from configs.loading import load
from launch.memory_plan import Hardware, Load, memory_plan, refuse_shortage, shortages

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "cluster.md"
WRITER = runpy.run_path(str(DOCS / "write_cluster.py"))
RECIPES = sorted((DOCS.parent / "configs" / "gpu").glob("*.yaml"))


def test_the_tables_are_what_is_planned() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == WRITER["written"](page), (
        "docs/cluster.md is out of date: run `.venv/bin/python docs/write_cluster.py`"
    )


def test_every_recipe_is_on_the_page() -> None:
    assert {recipe.stem for recipe in RECIPES} == WRITER["GPUS"].keys()
    page = PAGE.read_text(encoding="utf-8")
    for recipe in RECIPES:
        assert f"| `configs/gpu/{recipe.name}` |" in page


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_uses_its_gpus_and_fits_on_them(recipe: Path) -> None:
    plan, config = WRITER["planned"](recipe.stem)
    assert config.run.name == recipe.stem and config.run.resume == "auto"
    gpus = WRITER["GPUS"][recipe.stem][0]
    assert (plan.ranks if plan.shared else plan.engines + plan.ranks) == gpus
    refuse_shortage(plan, config)
    assert [str(shortage) for shortage in shortages(plan, config)] == []
    assert plan.cached_tokens > 64 * config.engine.max_model_len  # of the longest sequences


def test_the_4b_recipe_does_not_fit_on_80_gb_as_the_page_says() -> None:
    config = derived(load(DOCS.parent / "configs" / "gpu" / "qwen3-4b.yaml"), 1)
    plan = memory_plan(
        config, WRITER["shape"]("Qwen/Qwen3-4B"), Hardware("bfloat16", 1, 80e9), Load(1024, 4096, None)
    )
    assert any("training.ranks: 1" in str(shortage) for shortage in shortages(plan, config))


@pytest.mark.parametrize(
    ("model", "billions", "without_embeddings"),
    [("0.6B", 0.6, 0.44), ("4B", 4.0, 3.6), ("8B", 8.2, 6.95), ("32B", 32.8, 31.2)],
)
def test_models_have_the_parameters_that_their_cards_name(
    model: str, billions: float, without_embeddings: float
) -> None:
    """Of https://huggingface.co/Qwen: "Number of Parameters", and "(Non-Embedding)"."""
    shape = WRITER["shape"](f"Qwen/Qwen3-{model}")
    tied = WRITER["MODELS"][f"Qwen/Qwen3-{model}"][-1]
    embeddings = shape.vocab_size * shape.hidden_size * (1 if tied else 2)
    assert round(shape.parameters / 1e9, 1) == billions
    assert (shape.parameters - embeddings) / 1e9 == pytest.approx(without_embeddings, abs=0.05)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target
