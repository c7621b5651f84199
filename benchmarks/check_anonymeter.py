"""Do our disclosure attacks give the rates of the library `anonymeter` on the same frames?

    python benchmarks/check_anonymeter.py [--people 1600] [--seeds 3] [--attacks 400] [--python PYTHON] [--out benchmarks/check_anonymeter.md]

The library (Giomi et al. 2023) pins numpy < 1.27 and cannot live beside this package, so a virtual environment is made in a
temporary folder, the library is installed there by its name, and this script calls itself with that interpreter; `--python`
names an interpreter that has the library already. Frames of toy wards are written as text, both sides attack them: a verbatim
copy, fresh people, independent marginals, a release with 10 % verbatim stays; once with complete columns only, once with
missing entries. Linkability and inference attack everybody, so that equal attacks give equal counts, ties apart; singling out
draws its own predicates on each side. `z` compares the successes of both sides, pooled over the seeds, as two proportions.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pandas as pd

SIDES = ('train', 'holdout', 'release')
SECRETS = dict(outcome=False, sex=False, los=True) # whether a number
KNOWN = ('age', 'sex', 'admission_type', 'hr:mean', 'los', 'dx_chf')
K = (1, 5, 10)
MARK = '<!-- table -->'


def read(folder:Path)->list:
    "The three frames of one case."
    kinds = json.loads((folder/'kinds.json').read_text())
    frames = [pd.read_csv(folder/f'{s}.csv', dtype={c: k for c,k in kinds.items() if k == 'object'}) for s in SIDES]
    return [d.astype(kinds) for d in frames]


def library(folder:Path, n:int, seed:int)->dict: # attack -> [[successes, attacks] of main, control, baseline]
    "What the library finds; runs in its own environment."
    import warnings

    from anonymeter.evaluators import InferenceEvaluator, LinkabilityEvaluator, SinglingOutEvaluator
    warnings.simplefilter('ignore')
    np.random.seed(seed)
    t, c, r = read(folder)
    sets, out = json.loads((folder/'sets.json').read_text()), {}
    count = lambda e, main, control, baseline: [[float(e.n_success), main], [float(e.n_control), control], [float(e.n_baseline), baseline]]
    for mode,name in (('univariate', 'singling out, univariate'), ('multivariate', 'singling out, 3 columns')):
        e = SinglingOutEvaluator(ori=t, syn=r, control=c, n_attacks=n, n_cols=3, max_attempts=100_000, seed=seed).evaluate(mode=mode)
        out[name] = count(e.results(), n, n, n)
    everybody = min(len(t), len(c))
    e = LinkabilityEvaluator(ori=t, syn=r, control=c, aux_cols=tuple(sets), n_attacks=everybody, n_neighbors=max(K)).evaluate(n_jobs=1)
    for k in K: out[f'linkability, k={k}'] = count(e.results(n_neighbors=k), *[everybody]*3)
    for s,number in SECRETS.items():
        known = [k for k in KNOWN if k != s]
        e = InferenceEvaluator(ori=t, syn=r, control=c, aux_cols=known, secret=s, regression=number, n_attacks=everybody).evaluate(n_jobs=1)
        out[f'inference, {s}'] = count(e.results(), *[everybody]*3)
    return out


def ours(folder:Path, n:int, seed:int)->dict:
    "What this package finds."
    from synkmimic.core import rng
    from synkmimic.privacy.attribute import is_number
    from synkmimic.privacy.disclosure import coded, inference, linkability, singling_out
    t, c, r = read(folder)
    sets, out = json.loads((folder/'sets.json').read_text()), {}
    count = lambda a: [[k, m] for k,m in zip((a.main, a.control, a.baseline), a.n)]
    r = r.iloc[rng(seed, 'release').permutation(len(r))].reset_index(drop=True)
    number = np.array([is_number(t[k]) for k in t])
    for k,name in ((1, 'singling out, univariate'), (3, 'singling out, 3 columns')):
        out[name] = count(singling_out(*coded([t, c, r]), number, k, n, rng(seed, 'single', k)))
    for k,a in linkability(r, (t, c), sets, K).items(): out[f'linkability, k={k}'] = count(a)
    for s in SECRETS: out[f'inference, {s}'] = count(inference(r, (t, c), list(KNOWN), s, rng(seed, s)))
    return out


def write(folder:Path, frames, sets)->None:
    "Frames as text; categories as text, truth values as such."
    folder.mkdir(parents=True)
    kinds = {c: 'bool' if k == bool else 'float64' if k.kind in 'fiu' else 'object' for c,k in frames[0].dtypes.items()}
    for s,d in zip(SIDES, frames): d.to_csv(folder/f'{s}.csv', index=False)
    (folder/'kinds.json').write_text(json.dumps(kinds))
    (folder/'sets.json').write_text(json.dumps(sets))


def cases(people:int, seed:int)->dict: # name -> frames
    "Frames of the controls."
    from synkmimic.cohort import concat
    from synkmimic.models.controls import IndependentMarginals, VerbatimCopy, rename
    from synkmimic.privacy.disclosure import disclosure_frame
    from synkmimic.toy import toy_cohort
    train, holdout = toy_cohort(people, seed=seed).split_by_subject(seed=seed)
    n = min(len(train), len(holdout))
    train, holdout, fresh = train.take(np.arange(n)), holdout.take(np.arange(n)), toy_cohort(n, seed=100 + seed)
    made = dict(copy=VerbatimCopy().fit(train).sample(n, seed=seed), fresh=fresh, marginals=IndependentMarginals().fit(train).sample(n, seed=seed))
    made['leak 10 %'] = rename(concat([train.take(np.arange(n//10)), fresh.take(np.arange(n - n//10))]))
    frames = {k: [disclosure_frame(c) for c in (train, holdout, made[k])] for k in made}
    whole = [c for c in frames['copy'][0] if not any(d[c].isna().any() for f in frames.values() for d in f)]
    out = {f'{k}, complete': [d[whole] for d in f] for k,f in frames.items()}
    out |= {f'{k}, missing': f for k,f in frames.items() if k in ('copy', 'fresh')}
    half = frames['fresh']
    return out | {'fresh, half a holdout': [half[0][whole], half[1][whole].iloc[:n//2], half[2][whole]]}


def interpreter(folder:Path)->str:
    "A new environment with the library."
    venv.create(folder/'env', with_pip=True)
    python = str(folder/'env'/'bin'/'python')
    subprocess.run([python, '-m', 'pip', 'install', '-q', 'anonymeter'], check=True)
    return python


def z_value(a, b)->float:
    "Two proportions, pooled; 0 where both are certain."
    (k1, n1), (k2, n2) = a, b
    p = min((k1 + k2)/(n1 + n2), 1)
    se = np.sqrt(p*(1 - p)*(1/n1 + 1/n2))
    return float((k1/n1 - k2/n2)/se) if se > 0 else 0.


def table(found:list)->pd.DataFrame: # one row per case and attack
    "Rates of both sides, pooled over seeds."
    rows = []
    for case,attack in dict.fromkeys((f['case'], a) for f in found for a in f['library']):
        here, row = [f for f in found if f['case'] == case], dict(case=case, attack=attack)
        for j,side in enumerate(('train', 'holdout', 'baseline')):
            a, b = (np.sum([f[w][attack][j] for f in here], 0) for w in ('library', 'ours'))
            row |= {f'{side}': f'{a[0]/a[1]:.3f} / {b[0]/b[1]:.3f}', f'z {side}': round(z_value(a, b), 1)}
        rows.append(row)
    return pd.DataFrame(rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name,default in (('--people', 1600), ('--seeds', 3), ('--attacks', 400)): p.add_argument(name, type=int, default=default)
    p.add_argument('--python'); p.add_argument('--out'); p.add_argument('--library', nargs=3)
    a = p.parse_args()
    if a.library: return print(json.dumps(library(Path(a.library[0]), int(a.library[1]), int(a.library[2]))))
    from synkmimic.privacy.disclosure import default_sets
    with tempfile.TemporaryDirectory() as tmp:
        python, found = a.python or interpreter(Path(tmp)), []
        for seed in range(a.seeds):
            for k,(case,frames) in enumerate(cases(a.people, seed).items()):
                folder = Path(tmp)/f'{seed}-{k}'
                write(folder, frames, default_sets(frames[0]))
                clean = {k: v for k,v in os.environ.items() if k != 'PYTHONPATH'}
                said = subprocess.run([python, __file__, '--library', folder, str(a.attacks), str(seed)], check=True, capture_output=True, text=True, env=clean)
                found.append(dict(case=case, library=json.loads(said.stdout.splitlines()[-1]), ours=ours(folder, a.attacks, seed)))
        version = subprocess.run([python, '-c', "from importlib.metadata import version as v; print(v('anonymeter'), 'numpy', v('numpy'))"], check=True, capture_output=True, text=True)
    d = table(found)
    usual = d[d.case.str.endswith('complete')]
    far = int((usual[['z train', 'z holdout']].abs() > 3).sum().sum())
    text = '\n'.join(['| ' + ' | '.join(map(str, r)) + ' |' for r in [list(d), ['---']*d.shape[1], *d.values.tolist()]])
    head = f'anonymeter {version.stdout.strip()}; {a.people} stays, {a.seeds} seeds, {a.attacks} predicates. Each cell: library / ours.\n'
    head += f'On complete frames, {far} of {2*len(usual)} rates (train, holdout) differ by more than 3 standard errors.\n\n'
    print(head + text)
    if a.out: # prose above the mark stays
        old = Path(a.out).read_text().split(MARK)[0] if Path(a.out).exists() else ''
        Path(a.out).write_text(f'{old}{MARK}\n{head}{text}\n')


if __name__ == '__main__': sys.exit(main())
