"""`overread pretrain` as a Ray job: `ray job submit ... -- python jobs/pretrain.py OPTIONS` (README, On a cluster)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
