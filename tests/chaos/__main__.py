"""python -m tests.chaos --faults N [--seed S] [--output FILE]"""

import argparse
import random
import sys
from functools import partial
from pathlib import Path

from tests.chaos.campaign import campaign
from tests.chaos.faults import draw
from tests.chaos.table import tables


def main() -> int:
    """0: all was right."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults at random in a real run.")
    parser.add_argument("--faults", type=int, default=20, help="how many")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the faults; else any")
    parser.add_argument("--output", type=Path, help="file for the tables, in Markdown")
    options = parser.parse_args()
    print(f"{options.faults} faults, seed {options.seed}", flush=True)
    verdict = campaign(draw(options.faults, options.seed), partial(print, flush=True))
    text = tables(verdict.outcomes)
    print(f"\n{text}\n\n{'All was right.' if verdict.right else 'Not all was right: see above.'}")
    if options.output:
        options.output.write_text(f"{text}\n", encoding="utf-8")
    return 0 if verdict.right else 1


if __name__ == "__main__":
    sys.exit(main())
