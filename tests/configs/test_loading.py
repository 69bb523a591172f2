from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.loading import dump, help_text, load, parse
from configs.schema import Config, TrainingSettings, allowed, clip_range, reward_scale, settings

RECIPES = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
COMPARISON = Path(__file__).parents[2] / "configs" / "comparison.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_is_named_after_its_file(recipe: Path) -> None:
    assert load(recipe).run.name == recipe.stem


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_what_is_dumped_loads_back_equal(recipe: Path, tmp_path: Path) -> None:
    config = load(recipe, {"sampling": {"stop": ["\n", "ü: x"]}, "tracking": {"wandb": "off"}})
    assert load(write(tmp_path, dump(config))) == config


@pytest.mark.parametrize(
    ("name", "instead"), [("max_model_len", "and set engine.max_model_len"), ("block_size", "Leave it out.")]
)
def test_what_an_engine_gives_vllm_itself_is_not_passed_on(name: str, instead: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(COMPARISON, {"engine": {"vllm": {"max_num_seqs": 8, name: 64}}})
    assert f"engine.vllm: {name} is not allowed" in str(error.value)
    assert instead in str(error.value)


@pytest.mark.parametrize(
    ("given", "name", "instead"),
    [
        ({"gradient_clipping": 1.0}, "gradient_clipping", "and set training.max_grad_norm"),
        ({"optimizer": {"params": {"eps": 1e-6, "lr": 1.0}}}, "optimizer.params.lr", "set training.learning_rate"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage", "and set training.zero_stage"),
        ({"zero_optimization": True}, "zero_optimization.stage", "and set training.zero_stage"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "offload_param", "set training.offload"),
        ({"bf16": {}}, "bf16", "and set model.dtype"),
        ({"steps_per_print": 10}, "steps_per_print", "Leave it out."),
    ],
)
def test_what_ranks_give_deepspeed_themselves_is_not_passed_on(given: Any, name: str, instead: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(COMPARISON, {"training": {"deepspeed": {"wall_clock_breakdown": True, **given}}})
    assert f"{name} is not allowed: Cohort gives it itself" in str(error.value)
    assert instead in str(error.value)


def test_what_is_passed_on_to_deepspeed_may_be_nested(tmp_path: Path) -> None:
    passed = {
        "zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 1000},
        "communication_data_type": None,
    }
    text = "{zero_optimization: {overlap_comm: true, reduce_bucket_size: 1000}, communication_data_type: null}"
    config = parse(COMPARISON, ["--training.deepspeed", text])
    assert config.training.deepspeed == passed
    assert load(write(tmp_path, dump(config))) == config


def test_comparison_is_a_recipe() -> None:
    assert COMPARISON in RECIPES


def test_every_setting_is_documented_in_the_help() -> None:
    text = help_text("cohort train CONFIG")
    unfolded = " ".join(text.split()).replace("- ", "-")
    assert text.startswith("usage: cohort train CONFIG [--section.key value ...]")
    for name, field in settings().items():
        assert f"--{name} " in text
        assert field.description is not None
        assert field.description.replace("- ", "-") in unfolded, name


def test_no_setting_can_be_changed_after_loading() -> None:
    config = load(COMPARISON)
    with pytest.raises(ValidationError):
        config.seed = 1
    with pytest.raises(ValidationError):
        config.sampling.temperature = 0.5


def test_arguments_win_over_the_file() -> None:
    config = parse(
        COMPARISON,
        [
            "--training.learning_rate",
            "3e-6",
            "--seed=7",
            "--engine.enforce_eager",
            "false",
            "--run.name",
            "42",
        ],
    )
    assert config.training.learning_rate == 3e-6
    assert config.seed == 7
    assert config.engine.enforce_eager is False
    assert config.run.name == "42"
    assert config.task.few_shot == load(COMPARISON).task.few_shot


def test_null_unsets_a_setting() -> None:
    config = parse(COMPARISON, ["--run.max_seconds", "null", "--run.max_steps", "3"])
    assert (config.run.max_seconds, config.run.max_steps) == (None, 3)


def test_lists_are_given_by_repeating_the_argument() -> None:
    assert parse(COMPARISON, ["--sampling.stop", "a", "--sampling.stop", "b"]).sampling.stop == ("a", "b")


@pytest.mark.parametrize(
    ("words", "stop"),
    [
        (["\n"], ("\n",)),
        ([","], (",",)),
        ([" Answer"], (" Answer",)),
        (["a, b"], ("a, b",)),
        (["[a, b]"], ("a", "b")),
        (['["a, ", "]"]'], ("a, ", "]")),
        (["[]"], ()),
        (["a", "[b]"], ("a", "b")),
        (["010"], ("010",)),
        (['"a"'], ('"a"',)),
    ],
)
def test_stop_texts_arrive_as_they_are_given(words: list[str], stop: tuple[str, ...]) -> None:
    arguments = [part for word in words for part in ("--sampling.stop", word)]
    assert parse(COMPARISON, arguments).sampling.stop == stop


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_text_is_a_stop_text_as_it_is(text: str) -> None:
    assume(text != "null" and not (text.startswith("[") and text.endswith("]")))
    assert parse(COMPARISON, [f"--sampling.stop={text}"]).sampling.stop == (text,)


def test_a_range_is_given_as_two_numbers(tmp_path: Path) -> None:
    recipe = write(tmp_path, "task: {name: arithmetic, range: [5, 20]}\nrun: {max_steps: 2}")
    assert load(recipe).task.range == (5, 20)
    assert parse(recipe, ["--task.range", "[0, 9]"]).task.range == parse(recipe, ["--task.range", "0,9"]).task.range
    assert parse(recipe, ["--task.range", "null"]).task.range is None


def test_the_environment_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "9")
    monkeypatch.setenv("SAMPLING__TEMPERATURE", "0.5")
    config = parse(COMPARISON, [])
    assert (config.seed, config.sampling.temperature) == (0, 1.0)


def test_plain_words_are_read_as_yaml_1_2_does(tmp_path: Path) -> None:
    text = "training: {learning_rate: 2e-5}\nengine: {fork: off}\ntask: {name: comparison}\nrun: {max_steps: 2}"
    config = load(write(tmp_path, text))
    assert (config.training.learning_rate, config.engine.fork) == (2e-5, "off")


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("0o10", 8), ("0x10", 16), ("+7", 7)])
def test_whole_numbers_are_read_as_yaml_1_2_does(text: str, number: int, tmp_path: Path) -> None:
    recipe = write(tmp_path, f"task: {{name: comparison}}\nrun: {{max_steps: {text}}}")
    assert load(recipe).run.max_steps == number


def test_a_date_is_text(tmp_path: Path) -> None:
    recipe = write(tmp_path, "task: {name: comparison}\nrun: {max_steps: 2, name: 2024-13-45}")
    assert load(recipe).run.name == "2024-13-45"


def test_a_section_with_everything_commented_out_is_empty(tmp_path: Path) -> None:
    text = "sampling:\n  # top_p: 0.9\ntask: {name: comparison}\nrun: {max_steps: 2}"
    assert load(write(tmp_path, text)).sampling.top_p == 1.0


def test_a_file_name_that_is_no_folder_name_is_made_one(tmp_path: Path) -> None:
    path = tmp_path / "my recipe!.yaml"
    path.write_text(COMPARISON.read_text())
    assert load(path).run.name == "my-recipe-"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sampling.num_generations", "a whole number, at least 2 and at most 65536"),
        ("sampling.temperature", "a number, at least 0.1 and at most 2.0"),
        ("training.zero_stage", "a whole number, at least 0 and at most 3"),
        ("engine.fork", "one of auto, on, off"),
        ("engine.threads", "a whole number, at least 1 and at most 10000, or null"),
        ("training.scale_rewards", "one of group, batch, none, or null"),
        ("run.save_model", "true or false"),
        ("sampling.stop", "a list of texts"),
        ("task.range", "two whole numbers, at least 0 and at most 10^15, as in [0, 99], or null"),
    ],
)
def test_what_is_allowed_is_said_in_words(name: str, words: str) -> None:
    assert allowed(settings()[name]) == words


def test_every_setting_has_words_for_what_is_allowed_and_a_valid_default() -> None:
    assert all(allowed(field) for field in settings().values())
    config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}})
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("training", "clip", "scale"),
    [
        ({}, (0.2, 0.2), "group"),
        ({"epsilon": 0.1}, (0.1, 0.1), "group"),
        ({"epsilon": 0.1, "epsilon_high": 0.15}, (0.1, 0.15), "group"),
        ({"importance_sampling_level": "sequence"}, (3e-4, 4e-4), "group"),
        ({"loss_type": "dr_grpo"}, (0.2, 0.2), "none"),
        ({"loss_type": "dr_grpo", "scale_rewards": "batch"}, (0.2, 0.2), "batch"),
        ({"loss_type": "dapo"}, (0.2, 0.28), "group"),
        ({"loss_type": "dapo", "importance_sampling_level": "sequence"}, (3e-4, 4e-4), "group"),
        ({"loss_type": "cispo"}, (1.0, 4.0), "group"),  # no ratio is below 1 - 1
        ({"loss_type": "rloo", "epsilon_high": 0.3}, (0.2, 0.3), "none"),
    ],
)
def test_null_takes_what_the_paper_does(training: dict[str, Any], clip: tuple[float, float], scale: str) -> None:
    settings = TrainingSettings(**training)
    assert (clip_range(settings), reward_scale(settings)) == (clip, scale)


REFUSED: dict[str, tuple[list[str], str, str, str]] = {
    "one generation": (
        ["--sampling.num_generations", "1"],
        "sampling.num_generations: 1 is not allowed",
        "at least 2",
        "two or more",
    ),
    "temperature 0": (
        ["--sampling.temperature", "0"],
        "sampling.temperature: 0 ",
        "at least 0.1",
        "no spread of rewards, so no gradient",
    ),
    "temperature below the floor": (
        ["--sampling.temperature", "0.05"],
        "0.05 is not allowed",
        "at least 0.1",
        "no gradient",
    ),
    "temperature above vLLM's limit": (
        ["--sampling.temperature", "2.5"],
        "2.5",
        "at most 2.0",
        "vLLM refuses",
    ),
    "temperature not a number": (
        ["--sampling.temperature", "nan"],
        "sampling.temperature: nan",
        "a number",
        "1.0",
    ),
    "a word for a number": (
        ["--run.max_steps", "many"],
        "run.max_steps: many",
        "a whole number, at least 1 and at most 1000000000, or null",
        "leave it out",
    ),
    "half a step": (["--run.max_steps", "1.5"], "run.max_steps: 1.5", "a whole number", "leave it out"),
    "zero learning rate": (
        ["--training.learning_rate", "0"],
        "training.learning_rate: 0 ",
        "above 0",
        "1e-05",
    ),
    "ZeRO 4": (["--training.zero_stage", "4"], "training.zero_stage: 4 ", "at most 3", "leave it out for 1"),
    "a word not in the list": (
        ["--engine.fork", "maybe"],
        "engine.fork: maybe",
        "one of auto, on, off",
        "leave it out for auto",
    ),
    "rescue that does not climb": (
        ["--signal.rescue_factor", "1"],
        "signal.rescue_factor: 1 ",
        "above 1",
        "1.4",
    ),
    "rescue beyond vLLM": (
        ["--signal.rescue_max_temperature", "3"],
        "rescue_max_temperature: 3 ",
        "at most 2.0",
        "2.0",
    ),
    "run name with a slash": (["--run.name", "a/b"], "run.name: a/b", "text", "use letters"),
    "reward without function": (
        ["--task.reward", "rewards.py"],
        'task.reward: ["rewards.py"]',
        "text",
        "path/to/file.py:function",
    ),
    "no limit": (
        ["--run.max_seconds", "null"],
        "run.max_steps and run.max_seconds are both null",
        "at least one",
        "max_seconds: 900",
    ),
    "target out of reach": (
        ["--run.target_reward", "1.5"],
        "run.target_reward: 1.5",
        "at most task.best_reward (1.0)",
        "Lower it",
    ),
    "no task": (
        ["--task.name", "null", "--task.few_shot", "0"],
        "task.name and task.dataset are both null",
        "task.name",
        "cohort tasks",
    ),
    "two tasks": (["--task.dataset", "d.jsonl"], "comparison", "only one", "Leave out task.name"),
    "data without reward": (
        ["--task.name", "null", "--task.few_shot", "0", "--task.dataset", "d.jsonl"],
        "task.reward: null",
        "d.jsonl",
        "Set task.reward",
    ),
    "reward for a built-in task": (
        ["--task.reward", "r.py:f"],
        "task.reward: r.py:f",
        "only allowed with task.dataset",
        "Leave out task.reward",
    ),
    "examples for a data set": (
        ["--task.name", "null", "--task.dataset", "d", "--task.reward", "r.py:f"],
        "task.few_shot: 3",
        "built-in",
        "Leave it out",
    ),
    "best reward of a built-in task": (
        ["--task.best_reward", "2"],
        "task.best_reward: 2.0",
        "only allowed with task.dataset",
        "Leave it out",
    ),
    "a split of no built-in task": (
        ["--task.split", "dev"],
        "task.split: dev",
        "splits train and test",
        "Choose one",
    ),
    "an empty range": (["--task.range", "[9, 3]"], "task.range: [9, 3] is empty", "at most the second", "Swap them"),
    "half a range": (["--task.range", "[9]"], "task.range: [9]", "two whole numbers", "[low, high]"),
    "a range below zero": (["--task.range=-3,4"], "task.range: -3", "two whole numbers, at least 0", "[low, high]"),
    "a difficulty of its own": (
        ["--task.difficulty", "hardest"],
        "task.difficulty: hardest",
        "easy, medium",
        "leave it",
    ),
    "shaping of a data set": (
        ["--task.name=null", "--task.few_shot=0", "--task.dataset=d", "--task.reward=r.py:f", "--task.shaping=none"],
        "task.shaping: none",
        "only allowed with a built-in task",
        "Leave it out",
    ),
    "schedule without an end": (
        ["--training.lr_scheduler_type", "cosine"],
        "cosine",
        "run.max_steps, which is null",
        "Set run.max_steps",
    ),
    "warm-up without effect": (
        ["--training.warmup_steps", "5"],
        "training.warmup_steps: 5",
        "only 0",
        "constant_with_warmup",
    ),
    "endless warm-up": (
        ["--training.warmup_steps", "5", "--training.lr_scheduler_type", "linear", "--run.max_steps", "5"],
        "training.warmup_steps: 5",
        "less than run.max_steps (5)",
        "Lower it",
    ),
    "weights offloaded at a stage that keeps them": (
        ["--training.offload", "parameters"],
        "training.offload: parameters does not go with training.zero_stage 0",
        "DeepSpeed offloads weights at 3 only",
        "or training.offload: optimizer",
    ),
    "no mapping for DeepSpeed": (
        ["--training.deepspeed", "zero"],
        "training.deepspeed: zero is not allowed",
        "names with a value for each",
        "leave it out for none",
    ),
    "two steps ahead": (["--sampling.ahead", "2"], "sampling.ahead: 2", "at least 0 and at most 1", "else 0"),
    "a step ahead, and nothing that corrects for it": (
        ["--sampling.ahead", "1", "--training.vllm_importance_sampling_mode", "off"],
        "training.vllm_importance_sampling_mode: off does not go with sampling.ahead 1",
        "token_mask, sequence_truncate or sequence_mask",
        "set sampling.ahead: 0",
    ),
    "upper clip below the lower": (
        ["--training.epsilon_high", "0.1"],
        "training.epsilon_high: 0.1 must",
        "at least training.epsilon (0.2)",
        "Raise it",
    ),
    "lower clip above the paper's upper": (
        ["--training.loss_type", "dapo", "--training.epsilon", "0.3"],
        "training.epsilon_high: 0.28 (what null takes here)",
        "at least training.epsilon (0.3)",
        "lower epsilon",
    ),
    "a rank of no LoRA": (
        ["--training.lora_rank", "0"],
        "training.lora_rank: 0",
        "at least 1",
        "Choose",
    ),
    "alpha without a rank": (
        ["--training.lora_alpha", "32"],
        "training.lora_alpha: 32 has no effect",
        "training.lora_rank, which is null",
        "Set training.lora_rank",
    ),
    "targets without a rank": (
        ["--training.lora_target_modules", "q_proj"],
        "training.lora_target_modules: ['q_proj'] has no effect",
        "training.lora_rank, which is null",
        "Set training.lora_rank",
    ),
    "all linear layers and more": (
        ["--training.lora_rank", "8", "--training.lora_target_modules", "[all-linear, q_proj]"],
        "training.lora_target_modules: ['all-linear', 'q_proj']",
        "which has them all",
        "Leave out all-linear",
    ),
    "no targets": (
        ["--training.lora_rank", "8", "--training.lora_target_modules", "[]"],
        "training.lora_target_modules: []",
        "a list of texts",
        "leave it out for all-linear",
    ),
    "GSPO by its name": (
        ["--training.loss_type", "gspo"],
        "training.loss_type: gspo",
        "one of grpo, dr_grpo, dapo, cispo, rloo",
        "GSPO is loss_type grpo with importance_sampling_level sequence",
    ),
    "CISPO by sequence": (
        ["--training.loss_type", "cispo", "--training.importance_sampling_level", "sequence"],
        "training.importance_sampling_level: sequence",
        "only token is allowed",
        "training.loss_type: grpo",
    ),
    "RLOO by sequence": (
        ["--training.loss_type", "rloo", "--training.importance_sampling_level", "sequence"],
        "importance_sampling_level: sequence does not go with loss_type rloo",
        "whole completions already",
        "Leave it out",
    ),
    "punishment of everything": (
        ["--training.soft_punish_cache", "17", "--sampling.max_completion_length", "16"],
        "training.soft_punish_cache: 17",
        "at most sampling.max_completion_length (16)",
        "Lower it",
    ),
    "a correction that cannot raise": (
        ["--training.vllm_importance_sampling_clip_max", "1"],
        "training.vllm_importance_sampling_clip_max: 1 ",
        "above 1",
        "leave it out for 3.0",
    ),
    "rescue below the start": (
        ["--signal.rescue_max_temperature", "0.5"],
        "rescue_max_temperature: 0.5",
        "at least sampling.temperature (1.0)",
        "signal.rescue: false",
    ),
    "misspelt key": (
        ["--sampling.temprature", "1"],
        "sampling.temprature",
        "no such setting",
        "Did you mean sampling.temperature?",
    ),
    "key of another section": (
        ["--training.temperature", "1"],
        "training.temperature",
        "no such setting",
        "Did you mean sampling.temperature?",
    ),
    "key without section": (
        ["--num_generations=4"],
        "num_generations",
        "no such setting",
        "Did you mean sampling.num_generations?",
    ),
    "misspelt section": (
        ["--samplng.top_k", "1"],
        "samplng.top_k",
        "no such setting",
        "Did you mean sampling.top_k?",
    ),
    "a section as argument": (
        ["--sampling", "3"],
        "sampling",
        "no such setting",
        "Did you mean the section sampling?",
    ),
    "nothing like it": (["--xyzzy", "3"], "xyzzy", "no such setting", "sections cluster, engine"),
    "an argument without a value": (
        ["--run.max_steps"],
        "--run.max_steps",
        "expected one argument",
        "--section.key value",
    ),
    "a stray word": (["fast"], "unrecognized arguments: fast", "--section.key value", "2e-5"),
}


@pytest.mark.parametrize("value", ["99999999999999999999", "1e300", "true"])
def test_every_number_has_an_upper_limit(value: str) -> None:
    names = [name for name, field in settings().items() if "number" in allowed(field)]
    with pytest.raises(ConfigError) as refused:
        parse(COMPARISON, [f"--{name}={value}" for name in names])
    assert {problem.split(":")[0] for problem in refused.value.problems} == {*names}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_with_setting_value_rule_and_remedy(case: str) -> None:
    arguments, *parts = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        parse(COMPARISON, arguments)
    for part in parts:
        assert part in str(refused.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        parse(COMPARISON, ["--sampling.num_generations", "1", "--training.learning_rate", "-1"])
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "sampling.num_generations",
        "training.learning_rate",
    ]


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "unknown key": (
        "sampling: {temprature: 1}",
        "sampling.temprature: there is no such setting. Did you mean sampling.temperature?",
    ),
    "a key that is no text": ('"\\ud800": {}', r"\ud800: there is no such setting"),
    "an empty key": ("'': {}", '"": there is no such setting'),
    "unknown section": (
        "smapling: {top_p: 1}",
        "smapling: there is no such setting. Did you mean the section sampling?",
    ),
    "key at top level": (
        "temperature: 1",
        "temperature: there is no such setting. Did you mean sampling.temperature?",
    ),
    "key twice": (
        "run:\n  max_steps: 1\n  max_steps: 2",
        "recipe.yaml, line 3: max_steps is given twice, first on line 2",
    ),
    "section twice": ("run: {}\nrun: {}", "recipe.yaml, line 2: run is given twice"),
    "broken": ("run: [1", "recipe.yaml, line 1, column 8: this is not YAML"),
    "tab": ("run:\n\tmax_steps: 1", "recipe.yaml, line 2, column 1: this is not YAML"),
    "list": ("- run", "it must hold sections"),
    "number for a section": ("run: 3", "run: 3 is not allowed; it must be a section with settings below it"),
    "number for a name": ("run: {name: 42}", "run.name: 42 is not allowed; it must be text"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
    "a number for a key": ("run: {1: 2}", "recipe.yaml, line 1: 1 is no name of a setting; it must be text"),
    "a list for a key": ("run:\n  ? [a]\n  : 2", "line 2: a sequence is no name of a setting"),
    "a control character": ("run: {}\n# \x07", "line 2: this is not YAML: it cannot hold the character U+0007"),
    "a section of itself": (
        "run: &r {name: *r}",
        "line 1, column 6: this is not YAML: a plain value cannot begin with &",
    ),
    "a tag": ("run: !!binary aaa", "cannot begin with !"),
    "thousands of digits": (f"run: {{max_steps: {'9' * 5000}}}", "a number of 5000 digits; 40 are allowed"),
    "deep brackets": ("[" * 20_000, "line 1, column 21: this is not YAML: lists or sections 20 deep"),
    "deep dashes": ("- " * 20_000, "lists or sections 20 deep"),
    "deep sections": ("".join(f"{' ' * deep}a:\n" for deep in range(300)), "lists or sections 20 deep"),
    "a long file": ("#" * 100_001, "is too large: a configuration file may have 100000 characters"),
    "NUL in a path": (
        'run: {directory: "a\\0b"}',
        "run.directory: a\\u0000b is not allowed; it must be printable text on one line",
    ),
    "a path of 300 letters": (
        f"run: {{directory: /tmp/{'a' * 300}}}",
        "of at most 4096 bytes and 255 between two slashes",
    ),
    "a lone surrogate": ('run: {directory: "\\ud800"}', "run.directory: \\ud800 is not allowed"),
    "minutes": ("run: {max_steps: 1:30}", "run.max_steps: 1:30 is not allowed; it must be a whole number"),
    "true for a number": ("run: {max_steps: true}", "run.max_steps: true is not allowed; it must be a whole number"),
    "true for a bound": (
        "task: {range: [true, 9]}",
        "task.range: [true, 9] is not allowed; it must be two whole numbers",
    ),
    "an empty stop text": ("sampling: {stop: ['']}", "an empty one would end every completion"),
    "a line for an escape": ('run: {name: "\\e[2J"}', "run.name: \\u001b[2J is not allowed"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert message in str(refused.value)


def test_a_missing_file_is_refused_naming_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"comparsion.yaml: there is no such .* Did you mean .*/comparison.yaml\?"):
        load(COMPARISON.with_name("comparsion.yaml"))


def test_a_folder_is_no_file() -> None:
    with pytest.raises(ConfigError, match=r"^/\S+ is a folder, not a configuration file"):
        load(COMPARISON.parent)
