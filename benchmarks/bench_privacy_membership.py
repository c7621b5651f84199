"""What do the membership attacks cost, and how does it grow?

    python benchmarks/bench_privacy_membership.py [--sizes 1000 2000 4000 8000] [--hours 30] [--values 36] [--threads 1] [--boot 200]

For each size n: n train, n/2 holdout and n synthetic stays of a toy ward, widened to the given number of hourly variables.
Printed: seconds of processor time per part (all threads; wall time of the whole beside it), and the slope of log seconds on
log stays (1 is linear, 2 is every pair). The pass over all pairs is made once and booked under `nearest`; the calibrated
distance and the neighbourhood read from it. `naive loop` is the nearest record as it is usually written, a Python loop over
records that subtracts the whole release: timed on 100 records and scaled to all of them. `dense cdist` is the matrix of all
pairs at once, where it fits into --dense-gb. Both must find the distances of the blocks. The last line is the peak memory of
the whole process, the cohorts included.
"""
import argparse
import os
import resource
import time
from dataclasses import replace

import numpy as np


def wide(n:int, seed:int, hours:int, n_values:int):
    "A toy cohort with more hourly variables: those of other wards of the same size, cut to the stays of the first."
    from synkmimic.toy import toy_cohort
    c, k = toy_cohort(n, seed, hours), 1
    features, values = [*c.schema.values], [c.values]
    while len(features) < n_values:
        other = toy_cohort(n, seed + 1000*k, hours)
        features += [replace(f, name=f'{f.name}_{k}') for f in other.schema.values]
        values.append(np.where(c.inside[..., None], other.values, np.nan))
        k += 1
    people = [f's{seed}-{p}' for p in c.subject_id]
    return replace(c, schema=replace(c.schema, values=tuple(features[:n_values])), values=np.concatenate(values, -1)[..., :n_values],
                   subject_id=people).validate()


def clock(run, *args)->tuple[float, object]:
    "Processor seconds, and what came out."
    started = time.process_time()
    out = run(*args)
    return time.process_time() - started, out


def measured(train, holdout, synth, boot:int)->dict[str, float]:
    "Seconds of each part, in the order in which they build on each other."
    from synkmimic.privacy import membership as m
    known = m.reference_stays(holdout, 0.5, 0)
    spent = dict.fromkeys(('represent', *m.ATTACKS, 'scores'), 0.)
    sides = lambda which: [m.represent(x, synth, which) for x in (train, holdout, synth)]
    for which in m.REPRESENTATIONS:
        t, (a, b, c) = clock(sides, which)
        spent['represent'] += t
        view = m.View(c, b[known], np.concatenate([a, b]))
        for name,attack in m.ATTACKS.items(): spent[name] += clock(attack.score, view)[0]
    t, evidence = clock(lambda: m.attack_evidence(train, holdout, synth))
    spent['scores'] = clock(lambda: m.privacy_scores(train, holdout, synth, boot, evidence=evidence))[0]
    return spent | {'all in one call': t + spent['scores']}


def naive(train, synth, gb:float, some:int=100)->dict[str, float]:
    "Seconds of the nearest record by a loop and by the matrix of all pairs, series representation."
    from scipy.spatial.distance import cdist

    from synkmimic.privacy.membership import nearest_distance, represent
    x, s = (represent(c, synth, 'series') for c in (train, synth))
    block, near = clock(lambda: nearest_distance(x, s))
    loop, slow = clock(lambda: np.array([((s - r)**2).sum(1).min() for r in x[:some]]))
    assert np.allclose(slow, near[:some], atol=1e-3)
    out = {'nearest, blocks': block, 'nearest, naive loop': loop*len(x)/some}
    if 8*len(x)*len(s) < gb*1e9:
        out['nearest, dense cdist'], d = clock(lambda: cdist(x, s, 'sqeuclidean').min(1))
        assert np.allclose(d, near, atol=1e-3)
    return out


def table(sizes, found:list[dict])->None:
    "Seconds at each size, and the slope."
    print(f'\n{"processor seconds":<24}' + ''.join(f'{n:>10,}' for n in sizes) + f'{"slope":>8}')
    for name in dict.fromkeys(k for f in found for k in f):
        t = [f.get(name, np.nan) for f in found]
        ok = np.isfinite(t)
        slope = np.polyfit(np.log(np.array(sizes)[ok]), np.log(np.maximum(np.array(t)[ok], 1e-3)), 1)[0] if ok.sum() > 1 else np.nan
        print(f'{name:<24}' + ''.join(f'{x:10.2f}' for x in t) + f'{slope:8.2f}')


def main()->None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--sizes', nargs='+', type=int, default=[1000, 2000, 4000, 8000])
    for name,default in dict(hours=30, values=36, threads=1, boot=200).items(): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--dense-gb', type=float, default=0.3)
    a = parser.parse_args()
    os.environ |= dict(OMP_NUM_THREADS=str(a.threads), OPENBLAS_NUM_THREADS=str(a.threads), OMP_WAIT_POLICY='passive') # no spinning
    from threadpoolctl import threadpool_limits
    found = []
    with threadpool_limits(a.threads): # numpy may have been loaded before the environment was set
        measured(*(wide(200, s, a.hours, a.values) for s in (1, 2, 3)), 10) # imports are not counted
        for n in a.sizes:
            train, holdout, synth = (wide(k, s, a.hours, a.values) for s,k in enumerate((n, n//2, n)))
            started = time.perf_counter()
            found.append(measured(train, holdout, synth, a.boot))
            wall = time.perf_counter() - started
            found[-1] |= naive(train, synth, a.dense_gb)
            peak, f = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6, found[-1]
            print(f'{n:,} train, {n//2:,} holdout, {n:,} synthetic, {a.hours} h x {a.values} variables: {f["all in one call"]:.1f} s of processor, '
                  f'{wall:.1f} s wall for all attacks twice, naive nearest / blocks {f["nearest, naive loop"]/f["nearest, blocks"]:.0f} x, peak {peak:.2f} GB', flush=True)
    table(a.sizes, found)
    print(f'\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.2f} GB, the cohorts included')


if __name__ == '__main__': main()
