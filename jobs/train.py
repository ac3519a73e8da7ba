"""`overread train` as a Ray job: `ray job submit ... -- python jobs/train.py OPTIONS` (README, On a cluster)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
