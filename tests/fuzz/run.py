"""The mutation fuzzer, for as long as you like: ``python tests/fuzz/run.py --seconds 3600 --seed 1``.

Three campaigns take turns: mutated requests and mutated responses through a live proxy, and the pure modules against a
strict reader. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import Counter

from fuzzing.campaign import CAMPAIGNS, run_cases
from fuzzing.live import CaseError

#: How many cases share a proxy; at its end nothing may be left of them.
BATCH = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to run (default: 60)")
    parser.add_argument("--seed", default=os.urandom(4).hex(), help="any text; without it a new one")
    parser.add_argument("--only", choices=sorted(CAMPAIGNS), help="one of the campaigns (default: all in turn)")
    parser.add_argument("--case", type=int, metavar="N", help="this case alone, of the campaign that --only names")
    options = parser.parse_args()
    if options.case is not None and options.only is None:
        parser.error("--case wants --only")
    campaigns = [options.only] if options.only else list(CAMPAIGNS)
    print(f"seed {options.seed}", flush=True)
    done: Counter[str] = Counter()
    begun = said = time.monotonic()
    try:
        if options.case is not None:
            run_cases(options.only, options.seed, [options.case])
            done[options.only] += 1
        else:
            for turn in itertools.count():
                batch, what = turn // len(campaigns), campaigns[turn % len(campaigns)]
                run_cases(what, options.seed, range(batch * BATCH, (batch + 1) * BATCH))
                done[what] += BATCH
                now = time.monotonic()
                if now - begun >= options.seconds:
                    break
                if now - said >= 30:
                    said = now
                    print(f"{now - begun:.0f} s: {_told(done)}", flush=True)
    except CaseError as error:
        print(f"\nFAILED: {error}\n", flush=True)
        print("Once more: python tests/fuzz/run.py --only … --seed … --case …, as it says above.", flush=True)
        return 1
    except KeyboardInterrupt:
        print("interrupted")
    print(f"{time.monotonic() - begun:.0f} s: {_told(done)}, all good")
    return 0


def _told(done: Counter[str]) -> str:
    return ", ".join(f"{count} of {what}" for what, count in done.items())


if __name__ == "__main__":
    sys.exit(main())
