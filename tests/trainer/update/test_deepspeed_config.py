"""What ranks give DeepSpeed, and what `training.deepspeed` passes on to it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from configs.schema import DEEPSPEED_OWN, TrainingSettings
from tests.tiny import make_tiny_model
from trainer.update.rank import deepspeed_config

PASSED: dict[str, Any] = {
    "zero_optimization": {"reduce_bucket_size": 12_345, "allgather_bucket_size": 2000},
    "optimizer": {"params": {"eps": 1e-6}},
}

ENGINE = """
import json
import sys
from configs.schema import TrainingSettings
from trainer.update.rank import Rank, RankSpec

model, passed = sys.argv[1:]
training = TrainingSettings(ranks=1, offload="optimizer", learning_rate=1e-3, deepspeed=json.loads(passed))
engine = Rank(RankSpec(0, model, None, "float32", False, False, training, 8, None, "", 60.0, 0, False, False))._engine
adam, wrapper = engine.optimizer.optimizer.param_groups[0], engine.optimizer
found = [adam["eps"], adam["lr"], wrapper.reduce_bucket_size, wrapper.allgather_bucket_size, wrapper.cpu_offload]
print(json.dumps({"found": [*found, type(engine.optimizer.optimizer).__name__]}))
"""

SPLIT = """
import sys
import deepspeed
from configs.schema import TrainingSettings
from trainer.update.rank import Rank, RankSpec

def initialize(model, **given):
    print(sum(weight.ds_numel for weight in model.parameters()), sum(weight.numel() for weight in model.parameters()))
    sys.exit()

deepspeed.initialize = initialize
training = TrainingSettings(ranks=1, offload="parameters", zero_stage=3)
Rank(RankSpec(0, sys.argv[1], None, "bfloat16", False, False, training, 8, None, "", 60.0, 0, False, False))
"""


def names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted ones of all that is no mapping."""
    for name, value in values.items():
        yield from names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}"]


@pytest.mark.parametrize(("ranks", "offload"), [*product((1, 2), (None, "optimizer", "parameters"))])
def test_nothing_that_ranks_give_can_be_passed_on(ranks: int, offload: Any) -> None:
    training = TrainingSettings(ranks=ranks, zero_stage=3, offload=offload)
    for name in names(deepspeed_config(training, "bfloat16")):
        parts = name.split(".")
        assert any(".".join(parts[:count]) in DEEPSPEED_OWN for count in range(1, len(parts) + 1)), name


def test_what_is_offloaded() -> None:
    def zero(**training: Any) -> Any:
        return deepspeed_config(TrainingSettings(ranks=1, **training), "float32")["zero_optimization"]

    cpu = {"device": "cpu"}
    assert zero() == {"stage": 0}
    assert zero(offload="optimizer") == {"stage": 2, "offload_optimizer": cpu}  # never at 1: `zero_stage`
    assert zero(offload="parameters", zero_stage=3) == {"stage": 3, "offload_optimizer": cpu, "offload_param": cpu}


def test_what_is_passed_on_stands_beside_what_ranks_give() -> None:
    config = deepspeed_config(TrainingSettings(ranks=2, zero_stage=2, deepspeed=PASSED), "float32")
    assert config["zero_optimization"] == {"stage": 2} | PASSED["zero_optimization"]
    assert config["optimizer"]["params"]["eps"] == 1e-6 and config["optimizer"]["params"]["lr"] == 1e-5


@pytest.mark.timeout(240)
def test_what_is_passed_on_arrives_in_the_engine(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, str(make_tiny_model(tmp_path)), json.dumps(PASSED)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"found"')]
    assert json.loads(line)["found"] == [1e-6, 1e-3, 12_345, 2000, True, "AdamW"]


@pytest.mark.timeout(240)
def test_weights_are_split_before_deepspeed_moves_the_model_to_its_device(tmp_path: Path) -> None:
    """At stage 3: a model may be larger than the device."""
    done = subprocess.run(
        [sys.executable, "-c", SPLIT, str(make_tiny_model(tmp_path))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    all_of_them, whole = map(int, done.stdout.splitlines()[-1].split())
    assert all_of_them > 1000 and whole == 0
