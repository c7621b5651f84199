"""What does the fidelity pillar cost, and how does it grow?

    python benchmarks/bench_fidelity.py [--sizes 1000 2000 4000 8000] [--hours 48] [--values 37] [--threads 2] [--boot 200]

Two toy cohorts of each size, widened to the given number of hourly variables, are judged with default options. Printed per
family: seconds of wall time and of processor time (all threads) at each size, and the slope of log processor time on log
stays (1 is linear). Classifiers and networks look at 2,000 stays a side at most, so that their slope is flat above. The steps
that are quadratic by design are listed apart: neighbours in the embedding, here without the limit of 4,000 stays a side that
the default sets, and as they are. The last line is the peak memory of the whole process.
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
    return replace(c, schema=replace(c.schema, values=tuple(features[:n_values])), values=np.concatenate(values, -1)[..., :n_values]).validate()


def families(boot:int)->dict:
    "Name -> what it runs."
    from synkmimic.core import rng
    from synkmimic.evaluation import EvaluationConfig
    from synkmimic.fidelity import clinical, embedding, joint, marginal, subgroups, temporal
    from synkmimic.summaries import dequantise
    cfg = EvaluationConfig(n_boot=boot)

    def pairs(a, b):
        sides = joint.both_blocks(a, b, boot, rng(0))
        for f in (joint.rank_differences, joint.hour_differences, joint.category_differences): f(a, b, *sides)

    def boosting(a, b):
        joint.c2st(a, b, max_stays=cfg.max_stays)
        blurred = [dequantise(c, a, rng(0, k)) for k,c in enumerate((a, b))]
        joint.c2st(*blurred, max_stays=cfg.max_stays, top=0, form='dequantised')
        joint.c2st_values(*blurred, max_stays=cfg.max_stays)

    def networks(a, b):
        joint.c2st_gru(a, b, epochs=cfg.gru_epochs, max_stays=cfg.max_stays)
        temporal.predictive_scores(a, b, boot, epochs=2*cfg.gru_epochs, max_stays=cfg.max_stays)

    return {'marginal': lambda a, b: marginal.marginal_scores(a, b, boot),
            'joint, pairs': pairs, 'joint, boosting': boosting, 'networks': networks,
            'temporal': lambda a, b: temporal.temporal_scores(a, b, boot, gru_epochs=0),
            'embedding, no neighbours': lambda a, b: embedding.embedding_scores(a, b, boot, max_stays=40),
            'clinical': lambda a, b: clinical.clinical_scores(a, b, boot),
            'subgroups': lambda a, b: subgroups.subgroup_scores(a, b, cfg.subgroup_boot)}


def quadratic()->dict:
    "The declared steps: name -> limit of stays a side."
    from synkmimic.core import rng
    from synkmimic.fidelity.embedding import embedding_columns, fit_embedding, neighbours
    def near(limit:int):
        def run(a, b):
            columns = [embedding_columns(c.take(np.arange(min(len(c), limit)))) for c in (a, b)]
            emb = fit_embedding(columns[0])
            x, y = (emb(c) for c in columns)
            started = time.perf_counter(), time.process_time()
            neighbours(x, y, rng(0).integers(0, 100, len(y)), 100)
            return started
        return run
    return {'neighbours, all stays': near(10**9), 'neighbours, at most 4,000': near(4000)}


def measure(run, a, b)->tuple[float, float]:
    "Wall and processor seconds; a run may say when the clock starts."
    started = time.perf_counter(), time.process_time()
    own = run(a, b)
    if isinstance(own, tuple): started = own
    return time.perf_counter() - started[0], time.process_time() - started[1]


def table(title:str, sizes, found:dict)->None:
    "Seconds at each size, and the slope."
    print(f'\n{title:<28}' + ''.join(f'{n:>16,}' for n in sizes) + f'{"slope":>8}')
    for name,rows in found.items():
        cpu = [max(c, 1e-3) for _,c in rows]
        slope = np.polyfit(np.log(sizes), np.log(cpu), 1)[0] if len(sizes) > 1 else np.nan
        print(f'{name:<28}' + ''.join(f'{w:8.2f} /{c:6.2f}' for w,c in rows) + f'{slope:8.2f}')


def main()->None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--sizes', nargs='+', type=int, default=[1000, 2000, 4000, 8000])
    for name,default in dict(hours=48, values=37, threads=2, boot=200).items(): parser.add_argument(f'--{name}', type=int, default=default)
    a = parser.parse_args()
    os.environ |= dict(OMP_NUM_THREADS=str(a.threads), OPENBLAS_NUM_THREADS=str(a.threads), OMP_WAIT_POLICY='passive') # no spinning
    import torch
    torch.set_num_threads(a.threads)
    parts, declared = families(a.boot), quadratic()
    linear, square = {k: [] for k in parts}, {k: [] for k in declared}
    measure(parts['joint, boosting'], *(wide(100, s, a.hours, a.values) for s in (1, 2))) # imports and thread pools are not counted
    for n in a.sizes:
        real, synth = (wide(n, s, a.hours, a.values) for s in (1, 2))
        for k,f in parts.items(): linear[k].append(measure(f, real, synth))
        for k,f in declared.items(): square[k].append(measure(f, real, synth))
        total = np.sum([v[-1] for v in linear.values()], 0) + square['neighbours, at most 4,000'][-1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6
        print(f'{n:,} against {n:,}, {a.hours} h x {a.values} variables: {total[0]:.1f} s wall, {total[1]:.1f} s processor, peak {peak:.2f} GB', flush=True)
    linear['all of these'] = [tuple(np.sum([v[k] for v in linear.values()], 0)) for k in range(len(a.sizes))]
    table('wall / processor seconds', a.sizes, linear)
    table('declared, quadratic', a.sizes, square)
    print(f'\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.2f} GB, both cohorts included')


if __name__ == '__main__': main()
