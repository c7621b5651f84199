"""Do our distances agree with an independent library on the same numbers?

    python benchmarks/check_sdmetrics.py

sdmetrics asks for pandas < 3 and does not resolve beside this package, so it runs in an environment of its own that this script
makes in a temporary folder (pip must reach an index). Both sides read the same CSV files, made here from the toy ward; the table
is kept in benchmarks/check_sdmetrics.md. KSComplement, TVComplement and CorrelationSimilarity are 1 minus a distance.
"""
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pandas as pd

THEIRS = """
import json, sys
import pandas as pd
from sdmetrics.column_pairs import CorrelationSimilarity
from sdmetrics.single_column import KSComplement, TVComplement
folder, numbers, categories, pairs = sys.argv[1], *map(json.loads, sys.argv[2:5])
real, synth = (pd.read_csv(f'{folder}/{k}.csv') for k in ('real', 'synth'))
out = {f'ks {c}': 1 - KSComplement.compute(real_data=real[c], synthetic_data=synth[c]) for c in numbers}
out |= {f'tvd {c}': 1 - TVComplement.compute(real_data=real[c].astype(str), synthetic_data=synth[c].astype(str)) for c in categories}
for a,b in pairs:
    keep = [d[[a, b]].dropna() for d in (real, synth)]
    out[f'spearman {a}, {b}'] = 2*(1 - CorrelationSimilarity.compute(real_data=keep[0], synthetic_data=keep[1], coefficient='Spearman'))
print(json.dumps({k: float(v) for k,v in out.items()}))
"""


def frames():
    "Stay means, static numbers and categories of two wards, the second shifted a little."
    from synkmimic.fidelity.marginal import stay_means
    from synkmimic.toy import toy_cohort
    out = []
    for seed,shift in ((0, 0.), (1, 0.3)):
        c = toy_cohort(600, seed=seed)
        means = pd.DataFrame(stay_means(c.values), columns=c.schema.names('values'))
        out.append(pd.concat([means + shift*means.std(), c.static.astype({f: str for f in c.schema.static_of_kind('categorical')}).reset_index(drop=True)], axis=1))
    return out, toy_cohort(2).schema


def ours(real:pd.DataFrame, synth:pd.DataFrame, numbers, categories, pairs)->dict[str, float]:
    "The same distances by this package."
    from synkmimic.fidelity.joint import pair_correlation, ranks
    from synkmimic.fidelity.marginal import distribution_distance, tvd
    one = lambda d: np.ones((1, len(d)), 'float32')
    out = {f'ks {c}': distribution_distance(real[c].to_numpy(), synth[c].to_numpy(), one(real), one(synth), n_knots=10**6)[0][0] for c in numbers}
    for c in categories:
        levels = sorted(set(real[c].astype(str)) | set(synth[c].astype(str)))
        hot = lambda d: (d[c].astype(str).to_numpy()[:, None] == levels).astype('float32')
        out[f'tvd {c}'] = tvd(hot(real), hot(synth), one(real), one(synth))[0]
    for a,b in pairs:
        rho = [pair_correlation(ranks(d[[a, b]].dropna().to_numpy()), np.zeros(len(d[[a, b]].dropna()), int), np.ones((1, 1), 'float32'))[0][0, 1] for d in (real, synth)]
        out[f'spearman {a}, {b}'] = abs(rho[0] - rho[1])
    return {k: float(v) for k,v in out.items()}


def main()->None:
    (real, synth), schema = frames()
    numbers, categories = [*schema.names('values'), *schema.static_of_kind('numerical')], list(schema.static_of_kind('categorical'))
    pairs = [(a, b) for i,a in enumerate(schema.names('values')) for b in schema.names('values')[:i]][:6]
    with tempfile.TemporaryDirectory() as tmp:
        for name,d in dict(real=real, synth=synth).items(): d.to_csv(Path(tmp)/f'{name}.csv', index=False)
        real, synth = (pd.read_csv(Path(tmp)/f'{k}.csv') for k in ('real', 'synth'))
        venv.create(Path(tmp)/'env', with_pip=True)
        python = Path(tmp)/'env'/'bin'/'python'
        subprocess.run([python, '-m', 'pip', 'install', '-q', 'sdmetrics==0.32.0'], check=True)
        said = subprocess.run([python, '-c', THEIRS, tmp, *map(json.dumps, (numbers, categories, pairs))], check=True, capture_output=True, text=True).stdout
    table = pd.DataFrame({'sdmetrics 0.32.0': json.loads(said.splitlines()[-1]), 'synkmimic': ours(real, synth, numbers, categories, pairs)})
    table['difference'] = (table.iloc[:, 0] - table.iloc[:, 1]).abs()
    text = '# Distances on the same numbers\n\nMade by `python benchmarks/check_sdmetrics.py`: two toy wards of 600 stays, the second shifted by 0.3 SD.\n\n| distance | sdmetrics 0.32.0 | synkmimic | difference |\n|---|---|---|---|\n'
    text += ''.join(f'| {k} | {a:.6f} | {b:.6f} | {d:.1e} |\n' for k,a,b,d in table.itertuples())
    Path(__file__).with_suffix('.md').write_text(text)
    print(text)
    if table.difference.max() > 1e-6: sys.exit(f'largest difference {table.difference.max():.2e}')


if __name__ == '__main__': main()
