# What depends on what, and nothing else. Run by `make paper`; by hand: snakemake --cores 2 --config run=runs/NAME
# Every rule executes one notebook of nbs/paper/ in a run folder made by `python -m synkmimic.paper run` (synkmimic/paper.py).
# A notebook is stale when its key changes: the hash of its code and of the modules below it, chained along NEEDS. The key is part
# of the name of the file that says "done", so staleness survives killed runs and lost Snakemake records. Times do not count.
import sys
from pathlib import Path

from synkmimic.core import digest, read_json
from synkmimic.paper import done_mark, keys

if 'run' not in config: sys.exit('Snakefile: give --config run=runs/NAME (made by `make paper`).')
RUN = Path(config['run']).resolve()
WHAT = read_json(RUN/'run.json')
FIGURES = Path(WHAT['figures'])

NEEDS = dict(
    a0_cohort=[],
    a1_static_vae=['a0_cohort'],
    a2_temporal_vae=['a1_static_vae'],
    a3_latent_gan=['a2_temporal_vae'],
    a3_gaussian_mixture=['a2_temporal_vae'],
    a4_generate=['a3_latent_gan', 'a3_gaussian_mixture'],
    a5_fidelity=['a4_generate'],
    a6_utility=['a4_generate'],
    a7_privacy_model_based=['a4_generate'],
    a7_privacy_model_free=['a4_generate'],
    t1_cohort=['a0_cohort'],
    t2_fidelity=['a5_fidelity'],
    t3_utility=['a6_utility'],
    t4_privacy=['a7_privacy_model_based'],
    f1_pipeline=['a4_generate'],
    f2_marginals=['a4_generate'],
    f4_acf=['a5_fidelity'],
)
NAMES = list(NEEDS)
TRAINING = [n for n in NAMES if n[:2] in ('a1', 'a2', 'a3')] # these take all cores, one after another

def files(name):
    "What an item leaves beside its executed notebook."
    return [str(FIGURES/f'{name}.{s}') for s in dict(t=('csv', 'tex', 'md'), f=('pdf', 'png')).get(name[0], ())]

KEY = keys(NEEDS, WHAT['digest'])

def done(name): return str(done_mark(RUN, name, KEY[name]))

MADE = str(RUN/'state'/f'manifest.{digest(KEY)}.done') # in the run, not beside the committed figures: a fresh clone has those already

rule paper:
    input: MADE

for place, name in enumerate(NAMES, 1):
    rule:
        name: name
        input: [done(n) for n in NEEDS[name]]
        output: [done(name), str(RUN/'notebooks'/f'{name}.ipynb'), *files(name)]
        params:
            key=KEY[name],
            call=f'{sys.executable} -m synkmimic.paper {"stage" if name[0] == "a" else "item"} {name} --run {RUN} --key {KEY[name]} --place {place}/{len(NAMES)}',
        threads: workflow.cores if name in TRAINING else 1
        shell: 'exec {params.call}'

rule manifest:
    input: [done(n) for n in NAMES]
    output: MADE, FIGURES/'manifest.json', FIGURES/'numbers.json'
    params:
        key=digest(KEY),
        call=f'{sys.executable} -m synkmimic.paper manifest --run {RUN} {" ".join(NAMES)}',
    shell: '{params.call} && touch {output[0]}'
