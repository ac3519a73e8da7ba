"""`overread search` as a Ray job: `ray job submit ... -- python jobs/search.py OPTIONS` (README, On a cluster)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["search", *sys.argv[1:]])
