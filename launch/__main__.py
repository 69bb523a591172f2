"""The command line: `cohort` or `python -m launch`."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from configs.errors import ConfigError
from configs.loading import help_text, parse
from configs.printable import printable
from configs.schema import Config
from launch.errors import INTERRUPTED, ClusterLost, FolderError, RemoteError
from rewards.errors import RewardError, TaskError

OK, FAILED, BAD_INPUT = 0, 1, 2

USAGE = """\
usage: cohort COMMAND ...

  cohort train CONFIG [--section.key value ...]   train a model with GRPO
  cohort train --resume RUN [--section.key value ...]  go on with a run, where its latest checkpoint is
  cohort check CONFIG [--section.key value ...]   look before training: could this run learn?
  cohort eval  CONFIG [--section.key value ...]   evaluate a model: greedy and sampled
  cohort report RUN... [--output FILE]            write one HTML page about one or several runs
  cohort bench WHAT [CONFIG] [--option value ...] measure generation, update, step; learning beside TRL
  cohort tasks                                    list the built-in tasks

CONFIG is a YAML file, for example configs/comparison.yaml.
`cohort COMMAND --help` lists its options, for train, check and eval every setting.
exit status: 0 done, for train the target reached or none set; 2 bad input; 3 it cannot learn, and says why; 4 limit
reached before the target; 5 interrupted, and can be gone on with; 1 anything else."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return OK if words else BAD_INPUT
    command, rest = words[0], words[1:]
    try:
        if command not in COMMANDS:
            raise ConfigError(f"Unknown command {command!r}. It must be one of {', '.join(COMMANDS)}.")
        return COMMANDS[command](rest)
    except (ConfigError, TaskError) as error:
        _tell(f"cohort {command}: {error}")
        return BAD_INPUT
    except (RewardError, RemoteError, FolderError) as error:
        _tell("\n".join((f"cohort {command}: {error}", *getattr(error, "__notes__", ()))))
        if isinstance(error, ClusterLost):
            _end_without_ray(INTERRUPTED)
        return FAILED
    except BrokenPipeError:  # as in `cohort train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        _tell(f"cohort {command}: interrupted")
        return FAILED
    except Exception:  # noqa: BLE001  # not foreseen, and its text may be anyone's, so Python must not print it
        _tell(traceback.format_exc().rstrip())
        return FAILED


def _end_without_ray(status: int) -> NoReturn:
    """What is left in this process of a Ray that is gone would end it with another status, as soon as Python lets go
    of a handle of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _tell(text: str) -> None:
    print(printable(text, line_end="\n"), file=sys.stderr)


def _tasks(arguments: Sequence[str]) -> int:
    from rewards.task import tasks

    if arguments and arguments[0] not in ("-h", "--help"):
        raise ConfigError(f"`cohort tasks` takes no arguments; {arguments[0]!r} was given.")
    for task in tasks():
        ranges = ", ".join(f"{name} {low} to {high}" for name, (low, high) in task.ranges.items())
        print(f"{task.name}: {task.summary} task.difficulty: {ranges}.")
        print(f"    {task.example.text} -> {task.example.answer}")
    print(
        "reasoning_gym:NAME: the task NAME of the package reasoning-gym; for an unknown NAME the message lists all."
    )
    return OK


def _configured(command: str, run: Callable[[Config], int]) -> Callable[[Sequence[str]], int]:
    def call(arguments: Sequence[str]) -> int:
        if any(word in ("-h", "--help") for word in arguments):
            print(help_text(f"cohort {command} CONFIG"))
            return OK
        if not arguments or arguments[0].startswith("-"):
            raise ConfigError(f"Name a configuration first: cohort {command} configs/comparison.yaml")
        return run(parse(arguments[0], arguments[1:]))

    return call


def _train(arguments: Sequence[str]) -> int:
    folder, rest = _resumed(arguments)
    if folder and (not rest or rest[0].startswith("-")):
        rest = [str(folder / "config.yaml"), *rest]

    def run(config: Config) -> int:
        from launch.train import train

        return train(config, folder)

    return _configured("train", run)(rest)


def _resumed(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder that --resume names, and the other arguments. Raises ConfigError: it is no run's."""
    rest = list(arguments)
    for index, word in enumerate(rest):
        option, equals, value = word.partition("=")
        if option != "--resume":
            continue
        if not equals:
            value = rest.pop(index + 1) if index + 1 < len(rest) else ""
        del rest[index]
        folder = Path(value)
        if not value or not (folder / "config.yaml").is_file():
            raise ConfigError(
                f"--resume {value}: it must be a run's folder, with its config.yaml and checkpoints, for example "
                "--resume runs/comparison."
            )
        return folder, rest
    return None, rest


def _check(config: Config) -> int:
    from launch.check.command import check

    return check(config)


def _evaluate(config: Config) -> int:
    from launch.evaluate import evaluate_model

    return evaluate_model(config)


def _report(arguments: Sequence[str]) -> int:
    from launch.report.command import report

    return report(arguments)


def _bench(arguments: Sequence[str]) -> int:
    from launch.bench.command import bench

    return bench(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "check": _configured("check", _check),
    "eval": _configured("eval", _evaluate),
    "report": _report,
    "bench": _bench,
    "tasks": _tasks,
}

if __name__ == "__main__":
    sys.exit(main())
