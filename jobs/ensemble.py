"""`overread ensemble` as a Ray job: `ray job submit ... -- python jobs/ensemble.py OPTIONS` (README, On a cluster)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["ensemble", *sys.argv[1:]])
