"""``python -m tests.benchmarks [--quick] [--repeats N] [--only NAME] [--write FOLDER] [--draw]``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # where `support` is

    from tests.benchmarks.program import main

    sys.exit(main())
