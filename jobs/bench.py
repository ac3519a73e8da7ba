"""`overread bench` as a Ray job: `ray job submit ... -- python jobs/bench.py failure OPTIONS` (README)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
