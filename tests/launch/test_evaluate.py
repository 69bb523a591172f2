"""`cohort eval`; whole ones are in tests/end_to_end."""

import pytest

from configs.errors import ConfigError
from configs.schema import Config
from launch.evaluate import evaluate_model


def test_an_evaluation_of_nothing_is_refused() -> None:
    config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1, "evaluation_prompts": 0}})
    with pytest.raises(ConfigError, match="leaves nothing to evaluate"):
        evaluate_model(config)
