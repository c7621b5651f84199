"""What do the guide's indicators and the copy searches cost, and how do they grow?

    python benchmarks/bench_privacy_pipc.py [--sizes 500 1000 2000] [--naive 4] [--hours 30] [--values 36] [--threads 1]

The inference indicator with its half-split threshold, and the search for shared 6-hour windows, are timed beside what a reader
would write first: the whole n x n matrix for every half-split, and every window against every other. The naive forms are
quadratic with a large constant; their half-splits are therefore run `--naive` times and multiplied up to 100, which is said in
the table. Both must give the same numbers, or the benchmark stops. Below, both entry functions with default options. Times are
processor seconds (all threads); the slope is that of log time on log stays.
"""
import argparse
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))


def seconds(run)->tuple:
    "Processor seconds of a run and what it gave."
    start = time.process_time()
    out = run()
    return time.process_time() - start, out


def inference(n:int, a, naive:int)->tuple[float, float]:
    "Inference risk with 100 half-splits: ours, and the whole matrix for every half."
    from bench_fidelity import wide
    from synkmimic.core import rng
    from synkmimic.privacy import pipc
    train, o = wide(n, 1, a.hours, a.values), pipc.PipcOptions()
    frame = pipc.pipc_frame(train, train)
    columns, halves = pipc.gower_columns(frame, frame), pipc.half_splits(train.subject_id, 100, rng(0, 'bench'))

    def ours():
        labels = np.arange(n)
        near = pipc.gower_nearest(columns, columns, k=o.neighbours, own=(labels, labels))
        return pipc.inference_splits(columns, near, labels, halves, o)

    def first_thought():
        out = []
        for h in halves[:naive]:
            A, B = columns.take(h), columns.take(~h)
            own, D = pipc.gower(A, A), pipc.gower(B, A)
            np.fill_diagonal(own, np.inf)
            d, other = D.min(1), own.min(1)[D.argmin(1)]
            out.append((d < other)[d != other].mean())
        return np.array(out)

    (fast, x), (slow, y) = seconds(ours), seconds(first_thought)
    assert np.allclose(x[:naive], y, atol=1e-12), 'the half-splits disagree'
    return fast, slow*100/naive


def windows(n:int, a, most:int=60)->tuple[float, float]:
    "Shared 6-hour windows: ours, and all pairs of windows of `most` synthetic stays, scaled up to n."
    from bench_fidelity import wide
    from synkmimic.privacy import copies
    real = copies.charted_codes(*(wide(n, 1, a.hours, a.values),)*2)
    synth = real[np.random.default_rng(0).permutation(n)].copy()
    synth[n//10:] = copies.charted_codes(*(wide(n, 2, a.hours, a.values),)*2)[n//10:] # one stay in ten is a copy
    fast, found = seconds(lambda: copies.shared_windows(synth, real, 6))

    def first_thought():
        from numpy.lib.stride_tricks import sliding_window_view
        (wr, tr), hits = (sliding_window_view(real, 6, axis=1), copies.window_hashes(real, 6)[1]), []
        ws, ts = sliding_window_view(synth[:most], 6, axis=1), copies.window_hashes(synth[:most], 6)[1]
        for i in range(most):
            for t in range(ws.shape[1]): # this window against every window of every stay
                agree = ((wr == ws[i, t]).all(-1) & tr & ts[i, t]).sum(-1)
                hits += [(i, r) for r in np.flatnonzero((agree >= 3).any(1))]
        return set(hits)

    slow, pairs = seconds(first_thought)
    ours = set(zip(found.synth[found.synth < most], found.real[found.synth < most]))
    assert ours == pairs, 'the searches disagree'
    return fast, slow*n/most


def entries(n:int, a)->tuple[float, float]:
    "Both entry functions with n train, n/2 holdout and n synthetic stays."
    from bench_fidelity import wide
    from dataclasses import replace
    from synkmimic.privacy.copies import copies_scores
    from synkmimic.privacy.pipc import pipc_scores
    train, holdout, synth = wide(n, 1, a.hours, a.values), wide(n//2, 2, a.hours, a.values), wide(n, 3, a.hours, a.values)
    holdout = replace(holdout, subject_id=[f'h{k}' for k in holdout.subject_id])
    return tuple(seconds(lambda f=f: f(train, holdout, synth))[0] for f in (pipc_scores, copies_scores))


def slope(sizes, t)->str: return f'{np.polyfit(np.log(sizes), np.log(np.maximum(t, 1e-3)), 1)[0]:8.2f}' if len(sizes) > 1 else ''


def main()->None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--sizes', nargs='+', type=int, default=[500, 1000, 2000])
    for name,default in dict(naive=4, hours=30, values=36, threads=1).items(): parser.add_argument(f'--{name}', type=int, default=default)
    a = parser.parse_args()
    os.environ |= dict(OMP_NUM_THREADS=str(a.threads), OPENBLAS_NUM_THREADS=str(a.threads), OMP_WAIT_POLICY='passive')
    inference(100, a, 2); windows(100, a, 5) # imports are not counted
    jobs = {f'inference, 100 half-splits (naive: {a.naive} x {100//a.naive})': lambda n: inference(n, a, a.naive),
            'shared 6 h windows (naive: 20 stays, scaled)': lambda n: windows(n, a, 20)}
    print(f'{"processor seconds":<52}' + ''.join(f'{n:>10,}' for n in a.sizes) + f'{"slope":>8}')
    for name,run in jobs.items():
        ours, naive = zip(*(run(n) for n in a.sizes))
        for label,t in ((name, ours), ('   written naively', naive)): print(f'{label:<52}' + ''.join(f'{x:10.2f}' for x in t) + slope(a.sizes, t))
        print(f'{"   ratio":<52}' + ''.join(f'{y/max(x, 1e-3):9.0f}x' for x,y in zip(ours, naive)), flush=True)
    for name,t in zip(('pipc_scores', 'copies_scores'), zip(*(entries(n, a) for n in a.sizes))):
        print(f'{name:<52}' + ''.join(f'{x:10.2f}' for x in t) + slope(a.sizes, t))
    print(f'\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.2f} GB')


if __name__ == '__main__': main()
