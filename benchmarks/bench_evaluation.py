"""What does the whole evaluation of a paper run cost: fidelity and utility, three seeds by five draws?

    python benchmarks/bench_evaluation.py [--stays 4000] [--hours 48] [--values 37] [--seeds 3] [--draws 5] [--cores 2]

Toy cohorts, widened to the given number of hourly variables, stand for train, holdout and each synthetic draw. Every draw is
judged with default options (84 metrics, 5 tasks, 4 models), `--cores` draws at a time, one thread each, as Snakemake would run
the seeds of a sweep. Printed: a line per draw as it is done, then wall time, processor time and the largest process.
"""
import argparse
import multiprocessing
import os
import resource
import time

from bench_fidelity import wide


def one(job:tuple)->tuple[float, float, float]:
    "Judge one draw; wall seconds, processor seconds, peak GB."
    seed, draw, a = job
    import torch
    from synkmimic.evaluation import EvaluationConfig, evaluate_arms
    torch.set_num_threads(1)
    train, holdout, synth = (wide(a.stays, s, a.hours, a.values) for s in (10*seed + 1, 10*seed + 2, 1000*(seed + 1) + draw))
    cpu = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    started, spent = time.perf_counter(), cpu()
    evaluate_arms(train, rename(holdout), dict(synth=synth), EvaluationConfig(jobs=1), seed, ('fidelity', 'utility'), real=draw == 0)
    return time.perf_counter() - started, cpu() - spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6


def rename(c):
    "The same stays of other people."
    from dataclasses import replace
    return replace(c, subject_id=[f'h{s}' for s in c.subject_id], stay_id=[f'h{s}' for s in c.stay_id])


def main()->None:
    parser = argparse.ArgumentParser()
    for name,default in dict(stays=4000, hours=48, values=37, seeds=3, draws=5, cores=2).items(): parser.add_argument(f'--{name}', type=int, default=default)
    a = parser.parse_args()
    os.environ |= dict(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
    jobs, started, rows = [(s, d, a) for s in range(a.seeds) for d in range(a.draws)], time.perf_counter(), []
    with multiprocessing.get_context('spawn').Pool(a.cores, maxtasksperchild=1) as pool:
        for (s, d, _),row in zip(jobs, pool.imap(one, jobs)):
            rows.append(row)
            print(f'seed {s}, draw {d}' + (', with the real band' if d == 0 else '') + f': {row[0]:.1f} s wall, {row[1]:.1f} s processor, {row[2]:.2f} GB', flush=True)
    wall, cpu, peak = time.perf_counter() - started, sum(r[1] for r in rows), max(r[2] for r in rows)
    print(f'{a.seeds} seeds x {a.draws} draws, {a.stays:,} stays x {a.hours} h x {a.values} variables, {a.cores} processes: {wall/60:.1f} min wall, {cpu/60:.1f} min processor, largest process {peak:.2f} GB')


if __name__ == '__main__': main()
