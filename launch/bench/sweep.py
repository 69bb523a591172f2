"""What `cohort bench` is asked to measure: from command-line words to a Sweep."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.loading import parse
from configs.schema import Config

POLICIES = {"untrained": 1.0, "sharp": 0.4}
"""Sampling temperature that stands for a policy: at 0.4 the model is as sharp as policies are late in training."""

DEFAULT_PROMPTS = {"generation": 4, "update": 1, "step": 2}

LONG = 60.0
"""Seconds: a plain measurement that took longer is not repeated."""

HELP = """\
usage: cohort bench {generation,update,step} [CONFIG] [--option value ...] [--section.key value ...]
       cohort bench learn [CONFIG] [--option value ...]
       cohort bench controller [--output FOLDER]
       cohort bench growth [--output FOLDER]

Measures our way and the plain way of the same work, in turn, on a real model and task:

  generation   sampling groups: forking, and vLLM's own `n`, in one engine
  update       one update on the groups: token trees, and one padded row per sample, on one DeepSpeed rank
  step         whole steps through the processes of `cohort train`, with all of the above

And reward against seconds, beside TRL: `cohort bench learn --help`; and, without a model, what the controller adds to
a step: `cohort bench controller --help`, and up to 64 engines and ranks: `cohort bench growth --help`.

Prints a table, and writes bench-WHAT.json (machine, versions, configuration, every raw figure) and bench-WHAT.png.
CONFIG is a YAML file; without one it is the shipped comparison.yaml. Settings are those of `cohort train --help`; the
sweep decides sampling.num_generations, temperature and prompts_per_step, and the learning rate is next to nothing, so
that the policy stays as it is.

options:
  --num-generations 16,32,64,128,256  group sizes
  --prompts N                         prompts in one measurement (generation 4, update 1, step 2)
  --repeats 3                         measurements of each kind, after a warm-up; the table shows medians (min-max).
                                      A plain measurement that took longer than 60 s is not repeated.
  --policies untrained,sharp          untrained: the model at temperature 1.0; sharp: the same model at temperature
                                      0.4, which is as sharp as a policy late in training
  --output runs/bench                 folder for the results
  --peer trl                          step only: also TRL's GRPOTrainer, on the same machine"""


@dataclass(frozen=True)
class Sweep:
    """bench: `generation`, `update` or `step`. sizes: of groups. repeats: without the warm-up. peer: run TRL too."""

    bench: str
    config: Config
    sizes: tuple[int, ...]
    prompts: int
    repeats: int
    policies: tuple[str, ...]
    output: Path
    peer: bool

    def cells(self) -> Iterator[tuple[str, int]]:
        """Every policy and group size."""
        return ((policy, size) for policy in self.policies for size in self.sizes)


EXAMPLES = {
    "--num-generations": "16,64,256",
    "--prompts": "2",
    "--repeats": "3",
    "--policies": ",".join(POLICIES),
    "--output": "runs/bench",
    "--peer": "trl",
}


def parse_sweep(words: Sequence[str]) -> Sweep:
    """`generation configs/comparison.yaml --num-generations 16,64 --engine.threads 2`. Raises ConfigError."""
    if not words or words[0] not in DEFAULT_PROMPTS:
        raise ConfigError(
            f"{words[0]!r} cannot be measured." if words else "Say what to measure.",
            f"It must be one of {', '.join(DEFAULT_PROMPTS)}, learn and controller: cohort bench generation",
        )
    bench, given, others = words[0], *options(words[1:], EXAMPLES)
    if "--peer" in given and (given["--peer"], bench) != ("trl", "step"):
        raise ConfigError(
            f"--peer {given['--peer']} is not allowed for {bench}; it must be trl, and is for steps only: "
            "cohort bench step --peer trl"
        )
    sweep = Sweep(
        bench=bench,
        config=configured(others),
        sizes=whole_numbers(given, "--num-generations", EXAMPLES, least=2, default="16,32,64,128,256"),
        prompts=whole_number(given, "--prompts", EXAMPLES, str(DEFAULT_PROMPTS[bench])),
        repeats=whole_number(given, "--repeats", EXAMPLES),
        policies=_policies(given.get("--policies", ",".join(POLICIES))),
        output=Path(given.get("--output", "runs/bench")),
        peer="--peer" in given,
    )
    _refuse_unmeasured(sweep)
    return sweep


def configured(words: Sequence[str]) -> Config:
    """Of a configuration file and settings, or of settings alone for the shipped one. Raises ConfigError."""
    named = bool(words) and not words[0].startswith("--")
    shipped = Path(__file__).parents[2] / "configs" / "comparison.yaml"
    return parse(words[0] if named else shipped, words[1:] if named else words)


def adjusted(config: Config, **sections: Mapping[str, Any]) -> Config:
    """Another configuration, with these settings in place of `config`'s."""
    values = config.model_dump()
    return Config.model_validate(values | {name: values[name] | dict(over) for name, over in sections.items()})


def at(config: Config, policy: str, size: int) -> Config:
    """The configuration of one policy and group size."""
    return adjusted(config, sampling={"num_generations": size, "temperature": POLICIES[policy]})


def options(words: Sequence[str], examples: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A benchmark's options, and what is left: the configuration file and its settings. examples: a value of each.

    Raises ConfigError.
    """
    given: dict[str, str] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in examples:
            following = value if equals else next(rest, "")
            if not following or following.startswith("--"):
                raise ConfigError(f"{name} needs a value, for example {name} {examples[name]}")
            given[name] = following
        elif name.startswith("--") and "." not in name and name != "--seed":
            near = get_close_matches(name, examples, n=1)
            raise ConfigError(
                f"{name}: there is no such option. {f'Did you mean {near[0]}? ' if near else ''}"
                f"There are {', '.join(examples)}, and the settings of `cohort train --help`."
            )
        else:
            others.append(word)
    return given, others


def whole_numbers(
    given: Mapping[str, str], option: str, examples: Mapping[str, str], least: int, default: str = ""
) -> tuple[int, ...]:
    """Of an option that has several; without a default the example is it. Raises ConfigError."""
    parts = given.get(option, default or examples[option]).split(",")
    for part in parts:
        if not part.strip().isdecimal() or int(part) < least:
            raise ConfigError(
                f"{option}: {part!r} is not allowed; it must be a whole number of at least {least}. "
                f"For example {option} {examples[option]}"
            )
    return tuple(dict.fromkeys(map(int, parts)))


def whole_number(given: Mapping[str, str], option: str, examples: Mapping[str, str], default: str = "") -> int:
    """Of an option that has one, at least 1. Raises ConfigError."""
    numbers = whole_numbers(given, option, examples, least=1, default=default)
    if len(numbers) > 1:
        raise ConfigError(f"{option}: {given[option]!r} is not allowed; it must be one whole number.")
    return numbers[0]


def _policies(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in POLICIES:
            raise ConfigError(
                f"--policies: {name!r} is not allowed; it must be one or more of {', '.join(POLICIES)}."
            )
    return names


def _refuse_unmeasured(sweep: Sweep) -> None:
    """Raises ConfigError naming every setting that is not measured."""
    config, problems = sweep.config, []
    if config.engine.fork == "off":
        problems.append(
            "engine.fork: off is the plain way, which is measured beside ours; it must be auto or on. Leave it out."
        )
    if config.engine.tensor_parallel_size > 1:
        problems.append(
            f"engine.tensor_parallel_size: {config.engine.tensor_parallel_size} is not measured, because such an "
            "engine cannot fork; it must be 1. Leave it out."
        )
    if (config.training.ranks or 1) > 1 and sweep.bench != "generation":
        problems.append(
            f"training.ranks: {config.training.ranks} is not measured: padded rows are not balanced over ranks; it "
            "must be 1. Leave it out."
        )
    if problems:
        raise ConfigError(*problems)
