"""What does a release cost: written, and read back?

    python benchmarks/bench_release.py [--stays 10000] [--hours 120] [--layout kmimic] [--form parquet] [--threads 2] [--chunk 500]

A cohort from a small simulated registry is repeated, with its values moved by a few charting steps, until it has the stays
asked for: the density is the registry's (stays up to ten days, of which the first `--hours` are on the grid). Printed: rows
and bytes by table, seconds to write, to read with `load_cohort` and to run the release check, the peak memory before, after
writing and after reading, and the cells that did not come back and that the account does not explain (0 expected).
"""
import argparse
import dataclasses
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np


def cpu()->float:
    "Seconds of processor time so far, of all threads."
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


def gigabytes()->float: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20


def dense(n:int, hours:int, seed:int, folder):
    "A cohort of n stays at the density of the simulated registry."
    from synkmimic.core import rng
    from synkmimic.simulate import simulate_registry
    from synkmimic.sources.load import load_cohort
    simulate_registry(folder, n_stays=320, seed=seed)
    c, _ = load_cohort('simulated', folder, ['data.min_people=1', f'data.hours={hours}', 'data.code_group=full', 'data.threads=1'])
    g, pick = rng(seed, 'bench'), np.arange(n) % len(c)
    static = c.static.iloc[pick].reset_index(drop=True)
    c = dataclasses.replace(c, static=static, **{k: getattr(c, k)[pick] for k in ('values', 'flags', 'states', 'length', 'outcome')},
                            subject_id=[f'p{k}' for k in range(n)], stay_id=[f's{k}' for k in range(n)])
    for k,f in enumerate(c.schema.values):
        if f.agg == 'rate': continue
        v, step = c.values[..., k], f.precision or 0.01
        moved = np.round((np.rint(v/step) + g.integers(-3, 4, v.shape))*step, 6)
        c.values[..., k] = np.where((moved >= f.low) & (moved <= f.high), moved, v)
    return c.validate()


if __name__ == '__main__':
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name,default in (('stays', 10_000), ('hours', 120), ('threads', 2), ('chunk', 500), ('seed', 0)): ask.add_argument(f'--{name}', type=int, default=default)
    ask.add_argument('--layout', default='kmimic')
    ask.add_argument('--form', default='parquet')
    ask.add_argument('--skip-check', action='store_true')
    a = ask.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(a.threads)
    from synkmimic.release.check import check_release, write_release_check
    from synkmimic.release.tables import differences, write_tables
    from synkmimic.sources.load import load_cohort
    work = Path(tempfile.mkdtemp(prefix='bench_release_'))
    try:
        c = dense(a.stays, a.hours, a.seed, work/'registry')
        print(c, f'{c.values.nbytes/2**30:.2f} GB of values, peak {gigabytes():.2f} GB', flush=True)
        t, u = time.time(), cpu()
        release = write_tables(c, work/'release', a.layout, a.form, chunk_stays=a.chunk)
        wrote = time.time() - t
        size = sum(p.stat().st_size for p in (work/'release').rglob('*') if p.is_file())
        print(f'written: {sum(release.rows.values()):,} rows, {size/2**20:,.0f} MB, {wrote:.1f} s ({cpu() - u:.1f} s of processor), peak {gigabytes():.2f} GB', flush=True)
        for k,n in release.rows.items(): print(f'   {k:24} {n:>12,}')
        t, u = time.time(), cpu()
        again, _ = load_cohort(a.layout, work/'release', cfg=dataclasses.replace(release.options, threads=a.threads))
        read = time.time() - t
        print(f'read: {read:.1f} s ({cpu() - u:.1f} s of processor), peak {gigabytes():.2f} GB; together {wrote + read:.1f} s', flush=True)
        d = differences(c, again, release)
        lost = release.left_out.groupby('feature').rows.sum()
        odd = d[d.differing != d.feature.map(lost).fillna(0)]
        print(f'cells that differ: {d.differing.sum():,}; not explained by the account: {odd.differing.sum():,}', flush=True)
        if not a.skip_check:
            write_release_check(work/'release')
            t, u = time.time(), cpu()
            found = check_release(work/'release')
            print(f'release check: {time.time() - t:.1f} s ({cpu() - u:.1f} s of processor), {len(found)} findings, peak {gigabytes():.2f} GB')
    finally: shutil.rmtree(work, ignore_errors=True)
