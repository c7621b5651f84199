"""What does the whole privacy pillar cost, in one run?

    python benchmarks/bench_privacy.py [--train 8000] [--holdout 4000] [--synth 8000] [--hours 30] [--values 36]

All membership attacks but shadow models, attribute inference, re-identification, singling out, linkability, inference, the
Korean guide's indicators with 100 half-splits, and the searches for copies, with default options, one after the other in one
process and one thread. Printed: wall and processor seconds of each part, and the peak memory of the process with the cohorts
in it. The target is 10 minutes on two cores and 6 GB.
"""
import argparse
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main()->None:
    "One cohort of each side."
    a = argparse.ArgumentParser()
    for name,n in dict(train=8000, holdout=4000, synth=8000, hours=30, values=36).items(): a.add_argument(f'--{name}', type=int, default=n)
    a = a.parse_args()
    os.environ['OMP_NUM_THREADS'] = '1'

    from bench_privacy_membership import wide

    from synkmimic.privacy import attribute, copies, disclosure, membership, pipc
    train, holdout, synth = (wide(getattr(a, k), seed, a.hours, a.values) for seed,k in enumerate(('train', 'holdout', 'synth'), 1))
    parts = dict(membership=lambda: membership.privacy_scores(train, holdout, synth, 200, 0, evidence=membership.attack_evidence(train, holdout, synth)),
                 attribute=lambda: attribute.attribute_scores(train, holdout, synth), disclosure=lambda: disclosure.disclosure_scores(train, holdout, synth),
                 pipc=lambda: pipc.pipc_scores(train, holdout, synth), copies=lambda: copies.copies_scores(train, holdout, synth))
    print(f'{len(train):,} train, {len(holdout):,} holdout, {len(synth):,} synthetic stays, {train.n_hours} h x {train.values.shape[-1]} variables')
    print(f'{"":<14}{"scores":>8}{"wall s":>10}{"processor s":>14}')
    wall, spent = time.perf_counter(), time.process_time()
    for name,run in parts.items():
        w, p = time.perf_counter(), time.process_time()
        n = len(run())
        print(f'{name:<14}{n:>8}{time.perf_counter() - w:>10.1f}{time.process_time() - p:>14.1f}', flush=True)
    print(f'{"all":<14}{"":>8}{time.perf_counter() - wall:>10.1f}{time.process_time() - spent:>14.1f}')
    print(f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.1f} GB')


if __name__ == '__main__': main()
