"""Time of `simulate_registry`: median seconds, rows per second, size on disk and peak memory per number of stays.

Run: python benchmarks/bench_simulate.py [--stays 500 2000] [--repeats 3]
"""
import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

from synkmimic.simulate import simulate_registry


def once(n: int, seed: int) -> tuple:  # seconds, rows, megabytes
    with tempfile.TemporaryDirectory() as tmp:
        start = time.perf_counter()
        rows = sum(simulate_registry(Path(tmp)/'registry', n_stays=n, seed=seed).values())
        seconds = time.perf_counter() - start
        size = sum(f.stat().st_size for f in Path(tmp).rglob('*') if f.is_file())/1e6
    return seconds, rows, size


def main():
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument('--stays', type=int, nargs='+', default=[500, 2000])
    ask.add_argument('--repeats', type=int, default=3)
    args = ask.parse_args()
    once(20, 0)  # imports and caches
    print(f'{"stays":>7} {"seconds":>8} {"rows":>11} {"rows/s":>9} {"MB":>7} {"peak MB":>8}')
    for n in args.stays:
        runs = [once(n, seed) for seed in range(args.repeats)]
        s, rows, size = (statistics.median(r[i] for r in runs) for i in range(3))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
        print(f'{n:>7} {s:>8.2f} {rows:>11,.0f} {rows/s:>9,.0f} {size:>7.1f} {peak:>8.0f}')


if __name__ == '__main__': main()
