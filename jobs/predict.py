"""`overread predict` as a Ray job: `ray job submit ... -- python jobs/predict.py OPTIONS` (README, On a cluster)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
