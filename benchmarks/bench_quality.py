"""How good the generator is: the targets of the project beside what the finished runs of one data set gave, with the real-vs-real band.

    python benchmarks/bench_quality.py runs/challenge2012-786127859c [runs/OTHER_SEED ...] [--arm latent_gan]

Reads the scores and cohorts that `make paper` (or `make sweep`, one run for each seed) left in the run folders. With `--more` it also computes
what runs of before these measures existed lack: the Spearman correlation of hourly values, and the mortality task of the whole window. Two
measures are always computed here because no table holds them: coverage of the dead (Naeem et al., ICML 2020: the share of real stays in whose neighbourhood, as
wide as the distance to their fifth neighbour, a synthetic stay lies) and the share of single-variable series that stand word for word in
training. "Band" is the same measure of training people, who are real and other people, against the holdout.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from synkmimic.cohort import Cohort
from synkmimic.core import rng
from synkmimic.fidelity.joint import both_blocks, hour_differences
from synkmimic.privacy.membership import represent
from synkmimic.utility.prediction import utility_scores

DISTANCES = dict(ks=2, ks_values=2, missing_by_hour=2, count_ks=2, gap_ks=2, acf_gap=2, step_ks=2, spearman_difference=1.5, mask_spearman_difference=1.5)
CLASSIFIERS = dict(c2st_auc_raw=0.65, c2st_auc_dequantised=0.65, c2st_auc_gru=0.65)


def coverage(real:Cohort, synth:Cohort, k:int=5)->float:
    "Share of real stays with a synthetic stay nearer than their k-th real neighbour."
    a, b = (represent(c, real, 'summary') for c in (real, synth))
    radius = NearestNeighbors(n_neighbors=k + 1).fit(a).kneighbors(a)[0][:, -1]
    return float((NearestNeighbors(n_neighbors=1).fit(b).kneighbors(a)[0][:, 0] < radius).mean())


def coverage_of_the_dead(holdout:Cohort, other:Cohort)->float:
    "The same among stays that ended in death, equally many on both sides."
    a, b = (c.take(np.flatnonzero(c.outcome > 0)) for c in (holdout, other))
    n = min(len(a), len(b))
    return coverage(a.take(np.arange(n)), b.take(np.arange(n)))


def verbatim_share(train:Cohort, other:Cohort, least:int=3)->float:
    "Share of the series of one variable with at least `least` values that are, hour by hour, a training stay's."
    hits = total = 0
    for k in range(train.values.shape[-1]):
        rows = lambda c: {v.tobytes() for v in np.nan_to_num(c.values[..., k][c.mask[..., k].sum(1) >= least], nan=-1e9)}
        mine = np.nan_to_num(other.values[..., k][other.mask[..., k].sum(1) >= least], nan=-1e9)
        known = rows(train)
        hits, total = hits + sum(v.tobytes() in known for v in mine), total + len(mine)
    return hits/max(total, 1)


def more(train:Cohort, holdout:Cohort, synth:Cohort)->list[tuple]: # measure, band, value, target, met
    "Spearman correlation of hours, and death from the whole window."
    gap = lambda c: next(r['value'] for r in hour_differences(holdout, c, *both_blocks(holdout, c, 2, rng(0, 'bench'))) if (r['metric'], r['feature']) == ('hour_spearman_difference', 'all'))
    band, v = gap(train), gap(synth)
    rows = [('hour_spearman_difference', band, v, 1.5*band, v <= 1.5*band)]
    u = utility_scores(train, holdout, synth, tasks=('death_window',), models=('logistic', 'forest', 'boosting'), bins=0, n_boot=20, jobs=1)
    for r in u[u.metric == 'auroc_difference'].itertuples():
        p = u[(u.metric == 'equivalence_p') & (u.feature == r.feature)].value.iloc[0]
        real = u[(u.metric == 'auroc') & (u.feature == r.feature) & u.group.str.startswith('TRTR')].value.iloc[0]
        rows.append((f'TSTR - TRTR, whole window, {r.feature}', real, r.value, -0.03, p < 0.05))
    return rows


def measures(run:Path, arm:str, also:bool=False)->pd.DataFrame: # measure, band, value, target, met
    "All measures of one run."
    scores = pd.concat([pd.read_parquet(run/'scores'/f'{p}.parquet') for p in ('fidelity', 'utility', 'privacy_model_based')])
    pick = lambda a,m,f='all',**kw: scores[(scores.arm == a) & (scores.metric == m) & (scores.feature == f) & np.logical_and.reduce([scores[k] == v for k,v in kw.items()] or [True])].iloc[0]
    rows = []
    for m,times in DISTANCES.items():
        band, v = pick('real', m).value, pick(arm, m).value
        rows.append((m, band, v, times*band, v <= times*band))
    for m,top in CLASSIFIERS.items(): rows.append((m, pick('real', m).value, pick(arm, m).value, top, pick(arm, m).value <= top))
    for m in ('spread_between', 'spread_within'):
        ratio = lambda a: scores[(scores.arm == a) & (scores.metric == m)].value.median()
        rows.append((f'{m}, median ratio', ratio('real'), ratio(arm), 0.05, abs(ratio(arm) - 1) <= 0.05))
    for r in scores[(scores.arm == arm) & (scores.metric == 'violation_stays') & scores.value.notna()].itertuples():
        real = pick(arm, 'violation_stays_real', r.feature).value
        rows.append((f'broken: {r.feature}', real, r.value, real + 0.01, r.value <= real + 0.01))
    for r in scores[(scores.arm == arm) & (scores.metric == 'auroc_difference') & (scores.group == 'TSTR-TRTR')].itertuples():
        p = pick(arm, 'equivalence_p', r.feature, group='TSTR-TRTR').value
        rows.append((f'TSTR - TRTR, {r.feature}', pick('real', 'auroc', r.feature, group='TRTR').value, r.value, -0.03, p < 0.05))
    best = pick(arm, 'membership_auc', 'best')
    rows.append(('membership AUC, best, upper end', pick('real', 'membership_auc', 'best').high, best.high, 0.55, best.high <= 0.55))
    train, holdout, synth = (Cohort.load(run/p) for p in ('cohort/train', 'cohort/holdout', f'synthetic/{arm}'))
    own, other = verbatim_share(train, synth), verbatim_share(train, holdout)
    rows.append(('verbatim series, share', other, own, other, own <= other))
    covered = [coverage_of_the_dead(holdout, c) for c in (train, synth)]
    rows.append(('coverage of the dead', covered[0], covered[1], 0.8*covered[0], covered[1] >= 0.8*covered[0]))
    if also: rows += more(train, holdout, synth)
    return pd.DataFrame(rows, columns=['measure', 'band', 'value', 'target', 'met'])


def main()->None:
    parser = argparse.ArgumentParser()
    parser.add_argument('runs', nargs='+', type=Path)
    parser.add_argument('--arm', default='latent_gan')
    parser.add_argument('--more', action='store_true')
    a = parser.parse_args()
    each = pd.concat([measures(r, a.arm, a.more).assign(run=r.name) for r in a.runs])
    table = each.groupby('measure', sort=False).agg(band=('band', 'mean'), value=('value', 'mean'), low=('value', 'min'), high=('value', 'max'), target=('target', 'mean'), met=('met', 'sum'))
    print(f'{a.arm}, {len(a.runs)} runs: mean, smallest and largest value, and in how many runs the target was met\n')
    print(table.assign(met=[f'{k}/{len(a.runs)}' for k in table.met]).round(3).to_string())


if __name__ == '__main__': main()
