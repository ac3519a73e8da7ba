"""`overread prepare` as a Ray job: `ray job submit ... -- python jobs/prepare.py OPTIONS` (README, On a cluster)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
