"""`overread evaluate` as a Ray job: `ray job submit ... -- python jobs/evaluate.py OPTIONS` (README, On a cluster)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
