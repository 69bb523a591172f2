"""`cohort eval`."""

from contextlib import closing

from rich.table import Table
from rich.text import Text

from configs.errors import ConfigError
from configs.schema import Config
from launch.logger.display import default_console, one_line, shown
from launch.prepare import prepare
from launch.processes.start import engines_only
from launch.task_scorer import TaskScorer
from trainer.evaluate import evaluate
from trainer.evaluation import Evaluation
from trainer.run import Run


def evaluate_model(config: Config) -> int:
    """Evaluates the configured model on the configured task; the exit status. Raises ConfigError."""
    if not config.run.evaluation_prompts:
        raise ConfigError("run.evaluation_prompts: 0 leaves nothing to evaluate; it must be at least 1. Raise it.")
    console = default_console()

    def phase(text: str) -> None:
        console.print(shown(Text(text, style="dim")))

    phase("reading model and data")
    prepared = prepare(config, trainable=False)
    task = prepared.task
    with (
        closing(TaskScorer(task, config.task.reward_workers)) as scorer,
        engines_only(prepared, phase) as engines,
    ):
        phase("evaluating")
        run = Run(config, task.prompts, task.best_reward, dtype="float32")  # whatever it is: no rank is asked
        engines.on_group = scorer.begin
        result = evaluate(run, run.evaluated, engines, scorer, "evaluation")
    console.print(_table(result))
    console.print(
        f"reward_sampled {result.reward_sampled:.4f}  accuracy_greedy {result.accuracy_greedy:.4f}  "
        f"prompts_solved {result.prompts_solved}/{len(result.prompts)}"
    )
    console.print("  ".join(f"pass@{k} {chance:.4f}" for k, chance in result.pass_at.items()))
    return 0


def _table(result: Evaluation) -> Table:
    table = Table("question", "greedy answer", "greedy reward", "sampled reward", "solved")
    for prompt in result.prompts:
        table.add_row(
            one_line(prompt.question),
            one_line(repr(prompt.greedy)),
            f"{prompt.greedy_reward:.2f}",
            f"{prompt.sampled_reward:.3f}",
            "yes" if prompt.solved else "",
        )
    return table
