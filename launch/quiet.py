"""Libraries that print nothing, for commands that print tables."""

import os
import warnings


def quiet() -> None:
    """The libraries' log lines, warnings and progress bars would cover the table."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # in processes started from here
    warnings.simplefilter("ignore")
