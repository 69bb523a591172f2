"""Every setting of a run, documented where it is declared: `--help`, the README and the messages that refuse
a value are made from this file. Names follow TRL and vLLM where they have one."""

import re
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

MINIMUM_TEMPERATURE = 0.1
"""It multiplies the gaps between logits by ten: below it all completions of a prompt come out alike."""

WithoutBest = Literal["spread", "skip", "train"]

MAXIMUM_TEMPERATURE = 2.0
"""vLLM refuses more."""

LARGEST_REWARD = 1e6
"""Up or down. Far beyond it, the spread of a group's rewards is no number any more."""

ALL_LINEAR = ("all-linear",)
"""Of `training.lora_target_modules`: peft's word for all linear layers but the head."""

Shaping = Literal["none", "partial"]
Difficulty = Literal["easy", "medium", "hard"]

SEEDS = 2**32
WEEK = 604_800.0
"""Seconds. Longer waits overflow the clocks of some of the libraries that wait."""

MILLION, BILLION = 10**6, 10**9
"""Beyond what anybody needs, and small enough for all that is counted with them."""

NAME_LENGTH = 200
"""Of a run's name: with a number behind it, it is still the name of a folder."""

PATH_LENGTH, PART_LENGTH = 4096, 255
"""Of a path, and of each name in it: bytes that Linux allows."""

Bound = Annotated[int, Field(ge=0, le=10**15)]
RewardText = Annotated[str, Field(min_length=1, max_length=PATH_LENGTH)]

GYM = "reasoning_gym:"
"""What the name of a task of the package reasoning-gym begins with."""

REWARD = re.compile(r"(?P<judge>.+\.py:[A-Za-z_]\w*|[\w./~-]+(?<!\.py))( +(?P<weight>-?\d{1,6}(\.\d{1,9})?))?")
"""A function of a file, or a model, and a weight."""

Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]


T = TypeVar("T")

if TYPE_CHECKING:
    Derived = Annotated[T, "or null"]
else:
    Derived = T | None
"""A setting whose null stands for a value that `configs.derived` finds. All that reads it comes after that: to type
checkers it is never null."""

NULL: Any = None


def remedy(text: str) -> dict[str, Any]:
    """What to do when a value is refused, for settings where "choose another" would not be enough."""
    return {"remedy": text}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _taken_at_its_word(cls, value: object, info: ValidationInfo) -> object:
        """Refuses true and false for numbers, which pydantic takes for 1 and 0, and texts that no name or path is."""
        field = cls.model_fields[str(info.field_name)]
        kinds = get_args(field.annotation) or (field.annotation,)
        within = value if isinstance(value, list | tuple) else (value,)
        if bool not in kinds and any(isinstance(one, bool) for one in within):
            raise ValueError(allowed(field))
        long_text = any(hasattr(constraint, "max_length") for constraint in field.metadata)
        if isinstance(value, str) and str in kinds and not long_text and not _is_name(value):
            raise ValueError(
                f"printable text on one line, of at most {PATH_LENGTH} bytes and {PART_LENGTH} between two slashes"
            )
        return value


def _is_name(text: str) -> bool:
    """Whether it can name something, a file among others."""
    size = [len(part.encode("utf-8", "replace")) for part in text.split("/")]
    return text.isprintable() and max(size) <= PART_LENGTH and sum(size) + len(size) <= PATH_LENGTH


class ModelSettings(Section):
    """The language model to train."""

    path: str = Field(
        default="smollm2-135m",
        min_length=1,
        description="A Hugging Face hub id, a model folder, a .gguf file, or the bundled model smollm2-135m.",
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="Of a hub model: a branch, tag or commit; null takes the newest. Engines and ranks load the same "
        "commit, found out once.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="Number format of the weights in the engines and in the forward pass; the optimizer "
        "keeps float32 master weights either way. auto is bfloat16 on GPUs and on CPUs with AVX-512, where "
        "it is fast, and float32 elsewhere.",
    )
    chat_template_kwargs: dict[Name, bool | int | float | str] = Field(
        default={},
        max_length=20,
        description="Arguments of the model's chat template, for example {enable_thinking: false} for Qwen3.",
        json_schema_extra=remedy("Write it as {enable_thinking: false}, or leave it out for none."),
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with the model. Only for models whose code you have read.",
    )


class TaskSettings(Section):
    """What to learn: a built-in task (name), or your own data and reward function (dataset and reward)."""

    name: str | None = Field(
        default=None,
        min_length=1,
        description="A built-in task, for example comparison; `cohort tasks` lists them. reasoning_gym:NAME is the "
        "task NAME of the package reasoning-gym.",
    )
    size: int = Field(
        default=16,
        ge=1,
        le=100_000,
        description="Prompts that a built-in task makes; a data set has its own size.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=SEEDS,
        description="Seed of a built-in task's prompts; null takes the top-level seed.",
    )
    few_shot: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Solved examples shown as earlier chat turns before every question of a built-in task; "
        "none of them is a question of the task or, where the task is asked whole, the one that is asked.",
    )
    difficulty: Difficulty = Field(
        default="medium",
        description="How hard a built-in task's questions are: it stands for a range, which docs/tasks.md lists.",
    )
    range: tuple[Bound, Bound] | None = Field(
        default=None,
        description="Lowest and highest number that a built-in task asks about, both included, for example [0, 99]; "
        "for counting, words in a sentence. null takes the difficulty's.",
        json_schema_extra=remedy("Write it as [low, high], or leave it out for that of task.difficulty."),
    )
    shaping: Shaping = Field(
        default="partial",
        description="What a built-in task gives for wrong answers. partial: -0.5 to below 0 for one in the right "
        "form, the more the closer, and -1.0 for anything else; none: -1.0 for all. A right one is 1.0 either way.",
    )
    dataset: str | None = Field(
        default=None,
        min_length=1,
        description="Your prompts: a .jsonl, .json, .parquet or .csv file, a data set folder, or a hub id, "
        "with a column `prompt` (text, or chat messages); every other column reaches the reward function. A "
        "relative path starts at the working directory.",
    )
    config: str | None = Field(
        default=None,
        min_length=1,
        description="Configuration of the data set, as main of gsm8k; null is the one it has, or its default.",
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="Of a data set on the hub: a branch, tag or commit; null takes the newest.",
    )
    columns: dict[Name, Name] = Field(
        default={},
        max_length=100,
        description="Columns that are called otherwise in the data set: {prompt: question} makes its question the "
        "prompt, and {prompt: question, solution: answer} gives its answer to a reward function that asks for "
        "solution.",
        json_schema_extra=remedy("Write it as {prompt: question}, with a column of the data set behind each name."),
    )
    split: str = Field(
        default="train",
        min_length=1,
        description="Split of the data set; a single file is all train. A built-in task has train and, with no "
        "question in common, test.",
    )
    eval_dataset: str | None = Field(
        default=None,
        min_length=1,
        description="Held-out prompts, which are evaluated and never trained on; as task.dataset, and with the same "
        "columns. null takes task.dataset, if task.eval_split is set.",
    )
    eval_split: str | None = Field(
        default=None,
        min_length=1,
        description="Split that held-out prompts are of; null is train of task.eval_dataset, if that is set, else "
        "there are none. Of a built-in task test.",
    )
    eval_overlap: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What is done about held-out prompts that are also training prompts.",
    )
    reward: tuple[RewardText, ...] = Field(
        default=(),
        max_length=20,
        description="Your reward function as path/to/file.py:function, with TRL's signature "
        "f(prompts, completions, **columns) -> list[float]; or the name of a reward model, a sequence classifier "
        'with one label that transformers loads. Several as ["rewards.py:right", "rewards.py:brief 0.2"], with '
        "weights if they are not 1: the reward is the sum.",
        json_schema_extra=remedy(
            "Write it as path/to/file.py:function, for example rewards.py:exact_match, with a weight behind it if "
            "you like, as in rewards.py:brief 0.2."
        ),
    )
    reward_timeout: float = Field(
        default=60.0,
        gt=0,
        le=WEEK,
        description="Seconds one call of your reward function may take. It is asked once more, in another process, "
        "before the run ends.",
    )
    reward_workers: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Processes of your reward function (of each, if there are several); groups go to them in turn, "
        "while others are still sampled. More are of use where it is slow.",
    )
    reward_environment: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], ...] = Field(
        default=(),
        description="Names of environment variables that reach your reward function, such as the key of a service it "
        "asks. Without them it gets what a Python program needs, and neither keys nor tokens.",
        json_schema_extra=remedy("Write names, such as [SERVICE_KEY]; their values are taken from the environment."),
    )
    best_reward: float = Field(
        default=1.0,
        ge=-LARGEST_REWARD,
        le=LARGEST_REWARD,
        description="The reward of a right answer. A prompt all of whose completions reach it is solved.",
    )
    system_prompt: str | None = Field(
        default=None,
        max_length=MILLION,
        description="A system message before every prompt that does not bring its own.",
    )

    @field_validator("reward", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        """null is none, and one needs no brackets."""
        several = () if value is None else (value,) if isinstance(value, str) else value
        if isinstance(several, list | tuple):
            for one in several:
                if not isinstance(one, str) or not _is_name(one) or not REWARD.fullmatch(one):
                    raise ValueError("texts, path/to/file.py:function or a model's name, with a weight or without")
        return several


class SamplingSettings(Section):
    """How completions are drawn."""

    num_generations: int = Field(
        default=128,
        ge=2,
        le=65_536,
        description="Completions of one prompt in one step: the size of a group.",
        json_schema_extra=remedy(
            "GRPO compares the completions of a prompt with each other, so a group needs two or more."
        ),
    )
    temperature: float = Field(
        default=1.0,
        ge=MINIMUM_TEMPERATURE,
        le=MAXIMUM_TEMPERATURE,
        description="Sampling temperature: 1.0 is the model's own distribution, lower is sharper.",
        json_schema_extra=remedy(
            "Towards 0 all completions of a prompt come out alike: no spread of rewards, so no gradient and "
            "nothing to learn; above 2.0 vLLM refuses. 1.0 is a good start."
        ),
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Draw from the likeliest tokens that make up this probability; 1.0 is off.",
    )
    top_k: int = Field(
        default=0, ge=0, le=MILLION, description="Draw from this many of the likeliest tokens; 0 is off."
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Leave out tokens below this share of the likeliest one's probability; 0.0 is off.",
    )
    max_completion_length: int = Field(
        default=16,
        ge=1,
        le=MILLION,
        description="New tokens a completion may have, end of turn included; longer ones are cut off.",
    )
    stop: tuple[StopText, ...] = Field(
        default=(),
        max_length=100,
        description="Texts that end a completion, besides the model's end of turn; on the command line one, or "
        '["a", "b"].',
        json_schema_extra=remedy(
            "At most 100 texts of 1 to 1000 characters each: an empty one would end every completion at once."
        ),
    )
    prompts_per_step: int = Field(
        default=8, ge=1, le=MILLION, description="Prompts sampled in one step; not more than the task has."
    )
    ahead: int = Field(
        default=0,
        ge=0,
        le=1,
        description="1: engines sample the next step while the ranks update on this one, with the policy before that "
        "update, which the importance weights make up for. 0: they take turns.",
        json_schema_extra=remedy(
            "Set 1 where engines and ranks have GPUs of their own and sampling and update take about equally long, "
            "else 0."
        ),
    )


class EngineSettings(Section):
    """The vLLM engines that sample."""

    engines: Derived[int] = Field(
        default=NULL,
        ge=1,
        le=1000,
        description="vLLM engines that sample side by side. null is 1 without GPUs, and else what half of the GPUs "
        "hold, or what training.ranks leaves, at least 1.",
    )
    tensor_parallel_size: int = Field(default=1, ge=1, le=1000, description="GPUs that share one engine's weights.")
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        le=10 * MILLION,
        description="Tokens of prompt and completion together; null takes what the longest prompt needs.",
    )
    gpu_memory_utilization: Derived[float] = Field(
        default=NULL,
        gt=0,
        le=1,
        description="Share of a GPU's memory for the engine, from 0 to 1. null is 0.9 where engines have GPUs of "
        "their own, 0.45 where each shares one with a rank.",
    )
    sleep: bool = Field(
        default=False,
        description="An engine that shares its GPU with a rank gives up weights, keys and values while ranks update, "
        "and gets them again with the next weights: a larger model or micro-batch fits, and steps take longer.",
    )
    kv_cache_gib: int = Field(
        default=1, ge=1, le=10_000, description="Memory for keys and values without a GPU, in GiB per engine."
    )
    enforce_eager: Derived[bool] = Field(
        default=NULL,
        description="Start at once, without compiling the model; false samples faster after minutes of compiling. "
        "null is true without GPUs, false on GPUs.",
    )
    fork: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Sample a group as one sequence that forks where samples differ. auto: where the engine "
        "runs in one process; on: refuse to start where it does not; off: draw every sample by itself.",
    )
    threads: int | None = Field(
        default=None, ge=1, le=10_000, description="CPU threads per engine; null shares out the cores."
    )
    vllm: dict[Name, bool | int | float | str] = Field(
        default={},
        max_length=100,
        description="More arguments of vLLM's LLM, as in {max_num_seqs: 64, kv_cache_dtype: fp8}; those that Cohort "
        "gives itself are refused.",
        json_schema_extra=remedy("Write it as {max_num_seqs: 64}, or leave it out for none."),
    )


class TrainingSettings(Section):
    """The update."""

    ranks: Derived[int] = Field(
        default=NULL,
        ge=1,
        le=1000,
        description="DeepSpeed processes that share the update. null is 1 without GPUs, and else one for each GPU "
        "that engines leave, or for each GPU if they leave none: engines and ranks share them then.",
    )
    zero_stage: int = Field(
        default=1,
        ge=0,
        le=3,
        description="What the ranks split among them: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too. "
        "One rank splits nothing; in bfloat16 several split the optimizer state at 0 too. With offload it is 2 at "
        "least.",
    )
    offload: Literal["optimizer", "parameters"] | None = Field(
        default=None,
        description="What ranks on GPUs keep in the machine's memory instead. optimizer: masters and moments, which "
        "the CPU updates, and at zero_stage 3 gradients; parameters: the weights too, fetched when they are needed, "
        "at zero_stage 3 only; null: nothing. Slower, and for models that do not fit otherwise.",
    )
    lora_rank: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Rank of LoRA adapters: they alone are trained, and the model's weights stay as they are. null "
        "trains all weights. Adapters want about ten times the learning rate.",
    )
    lora_alpha: int | None = Field(
        default=None,
        ge=1,
        le=MILLION,
        description="What an adapter adds is multiplied by lora_alpha / lora_rank. null is twice lora_rank.",
    )
    lora_target_modules: tuple[Name, ...] = Field(
        default=ALL_LINEAR,
        min_length=1,
        max_length=1000,
        description="Linear layers that get an adapter, by the ends of their names, as [q_proj, v_proj]; all-linear "
        "is every one but the head.",
        json_schema_extra=remedy("Write it as [q_proj, v_proj], or leave it out for all-linear."),
    )
    learning_rate: float = Field(default=1e-5, gt=0, le=10, description="Peak learning rate of AdamW.")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        default="constant",
        description="Course of the learning rate. linear and cosine fall to 0 at run.max_steps; all but "
        "constant climb from 0 over warmup_steps. Steps without an update do not count.",
    )
    warmup_steps: int = Field(
        default=0, ge=0, le=BILLION, description="Steps over which the learning rate climbs from 0."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1000, description="AdamW's weight decay.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's decay of the mean gradient.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's decay of the mean squared gradient.")
    max_grad_norm: float = Field(
        default=1.0, gt=0, le=1e12, description="Gradients longer than this are scaled down to it."
    )
    num_iterations: int = Field(default=1, ge=1, le=1000, description="Updates made from one step's completions.")
    max_distinct_completions: int | None = Field(
        default=16,
        ge=2,
        le=MILLION,
        description="Of a group with more distinct completions than this so many are trained on, chosen and "
        "weighted so that the update is on average that on all of them: it costs no more, and is "
        "noisier. null trains on all.",
    )
    loss_type: Literal["grpo", "dr_grpo", "dapo", "cispo", "rloo"] = Field(
        default="grpo",
        description="What the update minimises. grpo: clipped ratios, every completion weighs the same; dr_grpo: "
        "divided by sampling.max_completion_length instead of each completion's own; dapo: every token weighs the "
        "same; cispo: the ratio is a clipped weight, and no token loses its gradient; rloo: whole completions, each "
        "against the mean of the others.",
        json_schema_extra=remedy(
            "Leave it out for grpo. GSPO is loss_type grpo with importance_sampling_level sequence."
        ),
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        default="token",
        description="What the probability ratio of policy to old policy is of: each token, or the whole completion "
        "(the geometric mean over its tokens). grpo with sequence is GSPO.",
    )
    scale_rewards: Literal["group", "batch", "none"] | None = Field(
        default=None,
        description="Divide advantages by the standard deviation of the rewards: of the group, of the whole step "
        "(batch), or not at all (none). null takes the paper's: none for dr_grpo and rloo, else group.",
    )
    mask_truncated_completions: bool = Field(
        default=False,
        description="Leave completions that were cut off out of the loss; their rewards still count in the mean and "
        "standard deviation of their group.",
    )
    soft_punish_cache: int | None = Field(
        default=None,
        ge=1,
        le=MILLION,
        description="DAPO's soft punishment: within this many tokens of sampling.max_completion_length the reward "
        "falls evenly, by 1 in all. It counts in what a step learns and reports, not in evaluations. null is off.",
    )
    beta: float = Field(
        default=0.0,
        ge=0,
        le=MILLION,
        description="Weight of the KL divergence from the untrained model; 0.0 needs no copy of it, and LoRA none "
        "either way.",
    )
    use_bias_correction_kl: bool = Field(
        default=True,
        description="Multiply that divergence by the probability ratio of policy to old policy, without which its "
        "gradient is not that of the divergence. false is the GRPO paper's.",
    )
    epsilon: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Probability ratios are clipped below 1 - epsilon. null takes the paper's: 0.2, for "
        "importance_sampling_level sequence 3e-4, and for cispo no lower limit.",
    )
    epsilon_high: float | None = Field(
        default=None,
        gt=0,
        le=MILLION,
        description="Probability ratios are clipped above 1 + epsilon_high. null takes the paper's: for dapo 0.28, "
        "for importance_sampling_level sequence 4e-4, for cispo 4.0 (a ratio of 5, as ScaleRL), else epsilon.",
    )
    vllm_importance_sampling_mode: Literal[
        "off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = Field(
        default="token_truncate",
        description="Correct for the engines' probabilities not being quite the trainer's: weigh each token, or each "
        "completion (sequence), by trainer over engine probability. Above vllm_importance_sampling_clip_max the "
        "weight is that (truncate) or 0 (mask). off: no correction.",
    )
    vllm_importance_sampling_clip_max: float = Field(
        default=3.0, gt=1, le=MILLION, description="Highest weight of that correction."
    )
    micro_batch_tokens: Derived[int] = Field(
        default=NULL,
        ge=1,
        le=BILLION,
        description="Token-tree tokens in one forward and backward pass; less takes less memory. null is the most of "
        "8192 (4096 without GPUs) halved as often as memory asks for, and 4096 on a cluster's GPUs.",
    )
    gradient_checkpointing: Derived[bool] = Field(
        default=NULL,
        description="Keep no activations inside the model's layers and compute them again in the backward pass: "
        "less memory, about a third more time. null does so where there is no memory for 1024 tokens otherwise.",
    )
    threads: int | None = Field(
        default=None, ge=1, le=10_000, description="CPU threads per rank; null shares out the cores."
    )
    deepspeed: dict[Name, JsonValue] = Field(
        default={},
        max_length=100,
        description="More of DeepSpeed's configuration, as in {zero_optimization: {overlap_comm: true}}; what Cohort "
        "gives itself is refused.",
        json_schema_extra=remedy(
            "Write it as {zero_optimization: {reduce_bucket_size: 100000000}}, or leave it out for none."
        ),
    )

    @field_validator("lora_target_modules", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        """One needs no brackets."""
        return (value,) if isinstance(value, str) else value


class SignalSettings(Section):
    """What happens to groups that teach nothing."""

    stop_without_signal: bool = Field(
        default=True,
        description="End the run with exit status 3 when it is clear that it cannot learn, saying why and what to "
        "change; false only says so, and goes on to the limits.",
    )
    rescue: bool = Field(
        default=True,
        description="Raise the temperature of a prompt whose samples are the same few wrong answers again and "
        "again, or one, step by step, until a right one comes; sample more of it; and show it a right answer of an "
        "earlier step again.",
    )
    rescue_visits: int = Field(
        default=12,
        ge=1,
        le=MILLION,
        description="Rollouts in a row without a lesson that the rescue of a prompt has; when every unsolved prompt "
        "has had them, and nothing else taught meanwhile, there is nothing left to try.",
    )
    rescue_factor: float = Field(default=1.4, gt=1, le=20, description="How much hotter each step of a rescue is.")
    rescue_max_temperature: float = Field(
        default=MAXIMUM_TEMPERATURE,
        ge=MINIMUM_TEMPERATURE,
        le=MAXIMUM_TEMPERATURE,
        description="Where a rescue's temperature stops climbing; vLLM takes up to 2.0.",
    )
    without_best: WithoutBest | None = Field(
        default=None,
        description="What a group without a single right answer is trained on. spread: towards its closer "
        "answers, none of them in particular, away from those that crowd out others and from what is no answer, "
        "if one crowds, too many are none, or three rollouts before held no right answer either; "
        "skip: nothing; train: its rewards as they are, which is GRPO and pushes towards the least wrong answer. "
        "With spread and skip the wrong answers beside a right one count as equally wrong. "
        "null is spread where rewards tell right from wrong, as those of built-in tasks do, and train where they are "
        "a score without a right answer; which it is, the run sees from your rewards, and says.",
    )
    rescue_generations: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Times sampling.num_generations that a prompt is sampled after three rollouts in a row without a "
        "right answer, if it never had one. Not with without_best train, where right answers may not be the point.",
    )
    rescue_min_p: float = Field(
        default=0.0003,
        ge=0,
        le=1,
        description="sampling.min_p of a rescue's hotter samples, where that is higher: hot, and still likely enough "
        "to be an answer. Without effect where engines cannot fork.",
    )
    replay: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="Share of a step's prompts that are solved ones, sampled again so that forgetting is noticed.",
    )


class RunSettings(Section):
    """How long to train, and what to keep."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=NAME_LENGTH,
        description="Name of the run's folder; null takes the configuration file's name.",
        json_schema_extra=remedy("It names a folder: use letters, digits, dots, dashes and underscores."),
    )
    directory: str = Field(default="runs", min_length=1, description="Folder that holds the runs' folders.")
    max_steps: int | None = Field(
        default=None, ge=1, le=BILLION, description="Stop after this many steps; null sets no such limit."
    )
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        le=BILLION,
        description="Stop after this many seconds of training; null sets no such limit.",
    )
    target_reward: float | None = Field(
        default=None,
        ge=-MILLION,
        le=MILLION,
        description="Stop, successfully, when the mean reward of the evaluated prompts reaches this, both sampled "
        "and greedy; null trains on.",
    )
    target_on: Literal["train", "eval"] = Field(
        default="train",
        description="Prompts that run.target_reward is of: those trained on, or the held-out ones (task.eval_split).",
    )
    evaluation_prompts: int = Field(
        default=256,
        ge=0,
        le=MILLION,
        description="Prompts evaluated at most, of those trained on and of held-out ones, in a run and by `cohort "
        "eval`; a smaller task is evaluated whole. 0 does without evaluations.",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        le=BILLION,
        description="Evaluate every so many steps: the held-out prompts, if there are any, else those trained on. "
        "null: before and after training, and when the latest groups say that the target may be reached.",
    )
    save_model: bool = Field(
        default=True, description="Write the trained model into the run's folder, in Hugging Face format."
    )
    push_to_hub: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+(/[\w.-]+)?$",
        max_length=NAME_LENGTH,
        description="Upload the trained model to this repository of the Hugging Face hub, which is made private if "
        "it is not there; the token is taken from where huggingface_hub has it. null uploads nothing.",
        json_schema_extra=remedy("Write it as NAME or OWNER/NAME."),
    )
    checkpoint_seconds: float | None = Field(
        default=600.0,
        gt=0,
        le=WEEK,
        description="Write a checkpoint this many seconds after the latest, when the step is done; null sets no such "
        "time. One is written in any case when the run ends, however it ends, if it can be.",
    )
    checkpoint_steps: int | None = Field(
        default=None,
        ge=1,
        le=BILLION,
        description="Write a checkpoint this many steps after the latest; null sets no such number.",
    )
    keep_checkpoints: int = Field(
        default=2,
        ge=1,
        le=MILLION,
        description="Latest checkpoints that are kept, besides the one with the best evaluation. Each is about seven "
        "times the size of the bfloat16 model, with LoRA little more than the model.",
    )
    resume: Literal["never", "auto"] = Field(
        default="never",
        description="auto: go on in the folder run.name if it holds a checkpoint, else begin there; for jobs that a "
        "scheduler starts again. never: a new folder each time. `cohort train --resume FOLDER` goes on by hand.",
    )
    max_restarts: int = Field(
        default=3,
        ge=0,
        le=MILLION,
        description="Engines and reward functions' processes that are replaced, and times that all ranks start again "
        "from the latest checkpoint, because a process was lost, in an hour; one more ends the run.",
    )


class ClusterSettings(Section):
    """The Ray cluster."""

    address: str | None = Field(
        default=None,
        min_length=1,
        description="Address of a running Ray cluster (HOST:PORT, or auto); local starts Ray here, on loopback; null "
        "takes RAY_ADDRESS, or else is local.",
    )
    dashboard: bool = Field(default=False, description="Start Ray's dashboard, on loopback, with a Ray of our own.")
    start_timeout: float = Field(
        default=600.0, gt=0, le=WEEK, description="Seconds for the engines and ranks to start."
    )
    sample_timeout: float = Field(default=600.0, gt=0, le=WEEK, description="Seconds for sampling one step.")
    update_timeout: float = Field(default=900.0, gt=0, le=WEEK, description="Seconds for one step's update.")
    publish_timeout: float = Field(
        default=300.0, gt=0, le=WEEK, description="Seconds for new weights to reach all engines."
    )


class TrackingSettings(Section):
    """Where the metrics go, besides metrics.jsonl in the run's folder."""

    tensorboard: bool = Field(default=True, description="Write TensorBoard files into the run's folder.")
    wandb: Literal["off", "offline", "online"] = Field(
        default="off", description="Weights & Biases: off, offline (files only), or online."
    )
    wandb_project: str = Field(default="cohort", min_length=1, description="Weights & Biases project.")


class Config(Section):
    """A run."""

    seed: int = Field(default=0, ge=0, lt=SEEDS, description="Seed of everything random in the run.")
    model: ModelSettings = Field(default_factory=ModelSettings)
    task: TaskSettings = Field(default_factory=TaskSettings)
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    signal: SignalSettings = Field(default_factory=SignalSettings)
    run: RunSettings = Field(default_factory=RunSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if conflicts := list(_conflicts(self)):
            raise ValueError("\n".join(conflicts))
        return self


TEMPLATE_OWN = {
    *("conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "tools", "documents"),
}
"""Arguments of transformers' `apply_chat_template` itself."""

VLLM_OWN = {
    "model": "model.path",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "trust_remote_code": "model.trust_remote_code",
    "max_model_len": "engine.max_model_len",
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "enforce_eager": "engine.enforce_eager",
    "kv_cache_memory_bytes": "engine.kv_cache_gib",
    "enable_sleep_mode": "engine.sleep",
    **dict.fromkeys(("tokenizer_revision", "distributed_executor_backend", "enable_prefix_caching"), ""),
    **dict.fromkeys(("enable_chunked_prefill", "async_scheduling", "logits_processors", "kv_transfer_config"), ""),
    **dict.fromkeys(("logprobs_mode", "weight_transfer_config", "worker_extension_cls", "block_size"), ""),
}
"""Arguments of vLLM's `LLM` that the engine gives, and the settings that they follow, if any."""

DEEPSPEED_OWN = {
    **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu"), "training.micro_batch_tokens"),
    "gradient_accumulation_steps": "training.micro_batch_tokens",
    "gradient_clipping": "training.max_grad_norm",
    **dict.fromkeys(("bf16", "bfloat16", "fp16", "torch_autocast", "data_types.param_dtype"), "model.dtype"),
    "zero_optimization.stage": "training.zero_stage",
    **dict.fromkeys((f"zero_optimization.offload_{part}" for part in ("optimizer", "param")), "training.offload"),
    **dict.fromkeys((f"zero_optimization.cpu_offload{part}" for part in ("", "_param")), "training.offload"),
    "zero_optimization.cpu_offload_use_pin_memory": "training.offload",
    "optimizer.params.lr": "training.learning_rate",
    "optimizer.params.betas": "training.adam_beta1 and training.adam_beta2",
    "optimizer.params.weight_decay": "training.weight_decay",
    "optimizer.params.max_grad_norm": "training.max_grad_norm",
    "scheduler": "training.lr_scheduler_type",
    **dict.fromkeys(("optimizer.type", "optimizer.params.torch_adam", "optimizer.params.fused"), ""),
    **dict.fromkeys(("optimizer.params.adam_w_mode", "optimizer.params.amsgrad", "optimizer.params.foreach"), ""),
    **dict.fromkeys(("managed_gradient_accumulation", "gradient_allreduce_op", "steps_per_print"), ""),
    **dict.fromkeys(("data_types.grad_accum_dtype", "zero_optimization.compute_grad_norm"), ""),
}
"""Of DeepSpeed's configuration what `trainer.update.rank.deepspeed_config` gives, or counts on being as it is without
it, and the settings that it follows, if any."""


def _conflicts(config: Config) -> Iterator[str]:
    """Settings that are fine one by one and cannot work together."""
    yield from _task_conflicts(config.task)
    sampling, training, signal, run = config.sampling, config.training, config.signal, config.run

    if run.max_steps is None and run.max_seconds is None:
        yield (
            "run.max_steps and run.max_seconds are both null: a run that misses its target would go on for "
            "ever. Set at least one of them, for example run.max_seconds: 900."
        )
    if run.target_reward is not None and run.target_reward > config.task.best_reward:
        yield (
            f"run.target_reward: {run.target_reward} cannot be reached, it must be at most task.best_reward "
            f"({config.task.best_reward}). Lower it, or raise task.best_reward to the best your function "
            "gives."
        )
    if training.lr_scheduler_type in ("linear", "cosine") and run.max_steps is None:
        yield (
            f"training.lr_scheduler_type: {training.lr_scheduler_type} falls to 0 at run.max_steps, which "
            "is null. Set run.max_steps, or use constant or constant_with_warmup."
        )
    if training.lr_scheduler_type == "constant" and training.warmup_steps:
        yield (
            f"training.warmup_steps: {training.warmup_steps} has no effect with lr_scheduler_type constant, "
            "which allows only 0. Set training.lr_scheduler_type: constant_with_warmup, or leave "
            "warmup_steps out."
        )
    if run.max_steps is not None and training.warmup_steps >= run.max_steps:
        yield (
            f"training.warmup_steps: {training.warmup_steps} must be less than run.max_steps "
            f"({run.max_steps}): the learning rate would never reach its peak. Lower it, or raise "
            "run.max_steps."
        )
    if own := sorted(VLLM_OWN.keys() & config.engine.vllm.keys()):
        instead = f", and set {VLLM_OWN[own[0]]}" if VLLM_OWN[own[0]] else ""
        yield f"engine.vllm: {own[0]} is not allowed: Cohort gives it itself. Leave it out{instead}."
    if own := [name for name in DEEPSPEED_OWN if _gives(training.deepspeed, name)]:
        instead = f", and set {DEEPSPEED_OWN[own[0]]}" if DEEPSPEED_OWN[own[0]] else ""
        yield f"training.deepspeed: {own[0]} is not allowed: Cohort gives it itself. Leave it out{instead}."
    if own := sorted(TEMPLATE_OWN & config.model.chat_template_kwargs.keys()):
        yield (
            f"model.chat_template_kwargs: {own[0]} is not allowed: Cohort gives it itself. Leave it out, and name "
            "arguments that the model's template knows."
        )
    if run.push_to_hub and not run.save_model:
        yield (
            f"run.push_to_hub: {run.push_to_hub} needs a model, and run.save_model is false. Set run.save_model: "
            "true, or leave out run.push_to_hub."
        )
    yield from _evaluation_conflicts(config)
    yield from _training_conflicts(training, sampling.max_completion_length)
    if sampling.ahead and training.vllm_importance_sampling_mode == "off":
        yield (
            f"training.vllm_importance_sampling_mode: off does not go with sampling.ahead {sampling.ahead}: nothing "
            "would make up for the policy that sampled being an older one. Leave it out for token_truncate, choose "
            "token_mask, sequence_truncate or sequence_mask, or set sampling.ahead: 0."
        )
    if sampling.ahead and config.engine.sleep:
        yield (
            f"engine.sleep: true does not go with sampling.ahead {sampling.ahead}: engines sample while ranks update "
            "then. Leave it out, or set sampling.ahead: 0."
        )
    if signal.rescue and signal.rescue_max_temperature < sampling.temperature:
        yield (
            f"signal.rescue_max_temperature: {signal.rescue_max_temperature} must be at least "
            f"sampling.temperature ({sampling.temperature}), where every rescue starts. Raise it, or set "
            "signal.rescue: false."
        )


def _gives(values: object, name: str) -> bool:
    """Whether nested mappings have a value for a dotted name, or something that is no mapping on the way to it."""
    key, _, rest = name.partition(".")
    if not isinstance(values, Mapping):
        return True
    return key in values and (not rest or _gives(values[key], rest))


def _evaluation_conflicts(config: Config) -> Iterator[str]:
    run = config.run
    if run.evaluation_prompts == 0 and (run.target_reward is not None or run.eval_steps is not None):
        name = "target_reward" if run.target_reward is not None else "eval_steps"
        yield (
            f"run.evaluation_prompts: 0 does without evaluations, which run.{name}: {getattr(run, name)} needs. "
            f"Raise it, or leave out run.{name}."
        )
    if run.target_on == "eval" and not has_held_out(config.task):
        yield (
            "run.target_on: eval needs held-out prompts, and there are none. Set task.eval_split or "
            "task.eval_dataset, or run.target_on: train."
        )
    elif run.target_on == "eval" and run.target_reward is not None and run.eval_steps is None:
        yield (
            "run.target_on: eval is only seen where held-out prompts are evaluated, and run.eval_steps is null. Set "
            "it, for example to 10."
        )


def _training_conflicts(training: TrainingSettings, max_completion_length: int) -> Iterator[str]:
    if training.offload == "parameters" and training.zero_stage < 3:
        yield (
            f"training.offload: parameters does not go with training.zero_stage {training.zero_stage}: DeepSpeed "
            "offloads weights at 3 only. Set training.zero_stage: 3, or training.offload: optimizer."
        )
    for name in ("lora_alpha", "lora_target_modules"):
        value = getattr(training, name)
        if training.lora_rank is None and value != TrainingSettings.model_fields[name].default:
            shown = list(value) if isinstance(value, tuple) else value
            yield (
                f"training.{name}: {shown} has no effect without training.lora_rank, which is null: all weights are "
                "trained. Set training.lora_rank, for example to 16, or leave it out."
            )
    if ALL_LINEAR[0] in training.lora_target_modules and training.lora_target_modules != ALL_LINEAR:
        yield (
            f"training.lora_target_modules: {list(training.lora_target_modules)} names layers beside all-linear, "
            "which has them all. Leave out all-linear, or the others."
        )
    if training.importance_sampling_level == "sequence" and training.loss_type in ("cispo", "rloo"):
        why = {"cispo": "weighs every token by its own ratio", "rloo": "takes the ratio of whole completions already"}
        yield (
            f"training.importance_sampling_level: sequence does not go with loss_type {training.loss_type}, which "
            f"{why[training.loss_type]}; only token is allowed. Leave it out, or set training.loss_type: grpo (which "
            "is GSPO then)."
        )
    epsilon, epsilon_high = clip_range(training)
    if epsilon_high < epsilon and training.loss_type != "cispo":
        null = " (what null takes here)" if training.epsilon_high is None else ""
        yield (
            f"training.epsilon_high: {epsilon_high}{null} must be at least training.epsilon ({epsilon}): ratios "
            "would have more room below 1 than above. Raise it, or lower epsilon."
        )
    if training.soft_punish_cache is not None and training.soft_punish_cache > max_completion_length:
        yield (
            f"training.soft_punish_cache: {training.soft_punish_cache} must be at most "
            f"sampling.max_completion_length ({max_completion_length}), or every completion would be punished. Lower "
            "it, or allow longer completions."
        )


def _task_conflicts(task: TaskSettings) -> Iterator[str]:
    if task.name is None and task.dataset is None:
        yield (
            "task.name and task.dataset are both null: there is nothing to learn. Set task.name to a "
            "built-in task (`cohort tasks` lists them), or task.dataset and task.reward for your own."
        )
    if task.name is not None and task.dataset is not None:
        yield (
            f"task.name: {task.name} and task.dataset: {task.dataset} are both set, and only one of them is "
            "allowed. Leave out task.name to train on your data, or task.dataset to train on the built-in "
            "task."
        )
    if task.dataset is not None and not task.reward:
        yield (
            f"task.reward: null does not go with task.dataset: {task.dataset}, whose answers something must "
            "judge. Set task.reward: path/to/file.py:function."
        )
    if task.reward and task.dataset is None:
        yield (
            f"task.reward: {', '.join(task.reward)} is only allowed with task.dataset: a built-in task judges its "
            "own answers. Leave out task.reward, or bring your prompts with task.dataset."
        )
    if task.dataset is not None and task.few_shot:
        yield (
            f"task.few_shot: {task.few_shot} is only allowed with a built-in task. Leave it out, and put "
            "the examples into the data set's prompts as chat messages."
        )
    if task.name is not None and task.best_reward != 1.0:
        yield (
            f"task.best_reward: {task.best_reward} is only allowed with task.dataset: a built-in task's "
            "best reward is 1.0. Leave it out."
        )
    if task.reward_workers > 1 and task.name is not None and not task.name.startswith(GYM):
        yield (
            f"task.reward_workers: {task.reward_workers} has no effect with the built-in task {task.name}, whose "
            "answers are judged by the run itself. Leave it out."
        )
    if task.name is not None and task.reward_environment:
        yield (
            f"task.reward_environment: {list(task.reward_environment)} is only allowed with task.reward: a built-in "
            "task's answers are judged without. Leave it out."
        )
    for name in ("split", "eval_split"):
        if task.name is not None and (split := getattr(task, name)) not in ("train", "test", None):
            yield f"task.{name}: {split} is not allowed: a built-in task has the splits train and test. Choose one."
    if task.name is not None and task.eval_dataset is not None:
        yield (
            f"task.eval_dataset: {task.eval_dataset} is only allowed with task.dataset: a built-in task has held-out "
            "prompts of its own. Set task.eval_split: test."
        )
    if task.range is not None and task.range[0] > task.range[1]:
        yield f"task.range: {list(task.range)} is empty: the first number must be at most the second. Swap them."
    for name in ("config", "revision", "columns"):
        if task.name is not None and (value := getattr(task, name)):
            yield f"task.{name}: {value} is only allowed with task.dataset: a built-in task has none. Leave it out."
    for name in ("difficulty", "range", "shaping"):
        if task.dataset is not None and (value := getattr(task, name)) != TaskSettings.model_fields[name].default:
            yield f"task.{name}: {value} is only allowed with a built-in task; your data has its own. Leave it out."


def has_held_out(task: TaskSettings) -> bool:
    """Whether there are prompts that are evaluated and not trained on."""
    return task.eval_split is not None or task.eval_dataset is not None


def clip_range(training: TrainingSettings) -> tuple[float, float]:
    """`epsilon` and `epsilon_high`, where they are null those of the paper: ratios are kept between 1 - epsilon and
    1 + epsilon_high."""
    sequence = training.importance_sampling_level == "sequence"
    epsilon, epsilon_high = PAPER_CLIP.get("sequence" if sequence else training.loss_type, (0.2, None))
    epsilon = training.epsilon or epsilon
    return epsilon, training.epsilon_high or epsilon_high or epsilon


PAPER_CLIP: dict[str, tuple[float, float | None]] = {
    "sequence": (3e-4, 4e-4),  # GSPO, arXiv 2507.18071, section 5.1
    "dapo": (0.2, 0.28),  # arXiv 2503.14476, section 4.1
    "cispo": (1.0, 4.0),  # no lower limit: MiniMax-M1, arXiv 2506.13585; a ratio of 5: ScaleRL, arXiv 2510.13786
}
"""(epsilon, epsilon_high) where they are not 0.2 on both sides."""


def reward_scale(training: TrainingSettings) -> Literal["group", "batch", "none"]:
    """`scale_rewards`, where it is null that of the loss's paper."""
    return training.scale_rewards or ("none" if training.loss_type in ("dr_grpo", "rloo") else "group")


def settings() -> dict[str, FieldInfo]:
    """Every setting by its dotted name, as in `sampling.temperature`."""
    found: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= {f"{name}.{key}": inner for key, inner in field.annotation.model_fields.items()}
        else:
            found[name] = field
    return found


def is_list(field: FieldInfo) -> bool:
    """Whether the setting is a list: of texts, or two numbers."""
    return any(get_origin(kind) is tuple for kind in (field.annotation, *get_args(field.annotation)))


def is_mapping(field: FieldInfo) -> bool:
    """Whether the setting is a mapping of names to values."""
    return get_origin(field.annotation) is dict


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words.

    >>> allowed(settings()["sampling.num_generations"])
    'a whole number, at least 2 and at most 65536'
    """
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    if get_origin(field.annotation) is tuple:
        return "a list of texts"
    if is_mapping(field):
        return "names with a value for each, as in {name: value}"
    if is_list(field):
        return "two whole numbers, at least 0 and at most 10^15, as in [0, 99], or null"
    parts = (field.annotation,) if get_origin(field.annotation) is Literal else get_args(field.annotation)
    text, *null = [
        "one of " + ", ".join(map(str, get_args(part))) if get_origin(part) is Literal else kinds[part]
        for part in parts or (field.annotation,)
    ]
    bounds = ""
    for constraint in field.metadata:
        for attribute, phrase in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
            if hasattr(constraint, attribute):
                joint = " and" if bounds else ","
                bounds += f"{joint} {phrase} {getattr(constraint, attribute)}"
        if getattr(constraint, "min_length", 0):
            bounds += ", not empty"
        if hasattr(constraint, "max_length"):
            bounds += f", at most {constraint.max_length} characters"
    return text + bounds + "".join(f", or {word}" for word in null)
