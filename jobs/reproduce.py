"""`overread reproduce` as a Ray job: `ray job submit ... -- python jobs/reproduce.py PAPER OPTIONS` (README)."""

import sys

from overread.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
