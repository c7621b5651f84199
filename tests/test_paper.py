"The rerunnable paper: what is refused, what is stale, what a failure leaves behind."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from synkmimic.config import compose, resolved
from synkmimic.core import ConfigError, SynkError, read_json, write_json
from synkmimic.paper import (DRAWN, JUDGED, borrow, check_parameters, code_hash, costs, dependencies, done_mark, execute, jobs_of, keys, members, needed, notebook_parameters, plan, prepare,
                             prepare_sweep, read_spec, share_keys, sweep)

ROOT = Path(__file__).resolve().parents[1]
SAMPLERS = ['latent_gan', 'gaussian_mixture']
RULES = re.findall(r"^    (\w+)=\[", (ROOT/'Snakefile').read_text(), re.M)
FEW = [n for n in RULES if n[0] == 'a' or n in ('t1_cohort', 't2_fidelity', 't3_utility', 't8_dossier', 'f1_pipeline', 'f10_frontier', 's2_ablation', 's4_latent_map', 's5_variance')] # every stage, and items of each kind
NAMES = [n for n in FEW if n not in ('a3_flow_matching', 'a7_shadow')] + ['a7_shadow_1', 'a7_shadow_2']
PARAMETERS = "run = ''\noverrides = []\nout = '_scratch'\nsampler = 'latent_gan'\nkind = 'model_based'\nshadow = 1"
WRITE = "from pathlib import Path\nfrom synkmimic.core import write_text\nfor s in {suffixes}: write_text('x', Path(out)/('{name}.' + s))\n"

def cell(kind, source, **metadata):
    extra = dict(outputs=[], execution_count=None) if kind == 'code' else {}
    return dict(cell_type=kind, id=str(abs(hash(source)) % 10**8), metadata=metadata, source=source.splitlines(keepends=True), **extra)

def notebook(path, *code, prose='A small one.', parameters=PARAMETERS):
    cells = [cell('markdown', prose), cell('code', parameters, tags=['parameters']), *(cell('code', c) for c in code)]
    spec = dict(name='python3', language='python', display_name='python3')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5)))
    return path

def little(house, name, more='', prose='A small one.'):
    "A stand-in for a paper notebook: writes what the Snakefile expects."
    suffixes = ('pdf', 'png') if name[0] == 'f' or name in DRAWN else ('csv', 'tex', 'md') if name[0] in 'ts' else ()
    return notebook(house/'nbs'/'paper'/f'{name}.ipynb', WRITE.format(suffixes=suffixes, name=name) + more, prose=prose)

def test_unknown_and_mistyped_parameters_are_refused(tmp_path):
    nb = notebook(tmp_path/'n.ipynb', parameters='steps = 3\nrate = 0.5\nname = "a"')
    assert notebook_parameters(nb) == dict(steps=3, rate=0.5, name='a')
    with pytest.raises(ConfigError, match="'steps'"): check_parameters(nb, dict(step=4))
    with pytest.raises(ConfigError, match='not of type int'): check_parameters(nb, dict(steps='4'))
    check_parameters(nb, dict(steps=4, rate=1))

def test_failure_leaves_no_finished_looking_notebook(tmp_path):
    nb, target = notebook(tmp_path/'n.ipynb', 'assert run == "good", "not good"'), tmp_path/'out'/'n.ipynb'
    execute(nb, target, dict(run='good'))
    assert [p.name for p in target.parent.iterdir()] == ['n.ipynb']
    with pytest.raises(SynkError, match='not good'): execute(nb, target, dict(run='bad'))
    assert [p.name for p in target.parent.iterdir()] == ['n.failed.ipynb']

def test_code_hash_follows_code_and_modules(tmp_path):
    package = tmp_path/'synkmimic'
    package.mkdir()
    (package/'low.py').write_text('"Prose."\nx = 1 # why\n')
    (package/'high.py').write_text('from .low import x\n')
    nb = notebook(tmp_path/'n.ipynb', 'from synkmimic.high import x')
    first = code_hash(nb, package)
    notebook(tmp_path/'n.ipynb', 'from synkmimic.high import x  # a comment', prose='Other words.')
    assert code_hash(nb, package) == first
    cleared = package.with_name('again')/'synkmimic' # hashes of unchanged paths are remembered within a process
    shutil.copytree(package, cleared)
    (cleared/'low.py').write_text('"Other prose."\n\nx = 1\n')
    assert code_hash(nb, cleared) == first
    moved = package.with_name('third')/'synkmimic'
    shutil.copytree(package, moved)
    (moved/'low.py').write_text('x = 2\n')
    assert code_hash(nb, moved) != first

def test_run_names_never_collide():
    standard, other = plan(), plan(overrides=['train.static_vae.epochs=3'])
    assert standard.name == 'demo' and other.name.startswith('demo-') and standard.folder != other.folder
    assert plan(seed=1).folder != standard.folder
    assert '_scratch' in plan(profile='smoke').figures.parts
    with pytest.raises(ConfigError, match='ROOT'): plan(data='kmimic')
    with pytest.raises(ConfigError, match="'smoke'"): plan(profile='smok')

@pytest.fixture(scope='module')
def house(tmp_path_factory):
    "A copy of the project whose paper notebooks do nothing but write their files, with some of the items."
    house = tmp_path_factory.mktemp('house')
    for d in ('synkmimic', 'nbs'): shutil.copytree(ROOT/d, house/d, ignore=shutil.ignore_patterns('paper', '__pycache__'))
    shutil.copy(ROOT/'settings.ini', house)
    rules = (ROOT/'Snakefile').read_text()
    for n in set(RULES) - set(FEW): rules = re.sub(rf'^    {n}=\[.*\n', '', rules, flags=re.M)
    (house/'Snakefile').write_text(rules)
    from synkmimic.paper import variant
    for name in {variant(n)[0] for n in NAMES}: little(house, name, more='import synkmimic.schema' if name == 't1_cohort' else '')
    for k,epochs in enumerate((4, 9)): # two runs that differ in the epochs of the GAN
        settings = resolved(compose(['profile=demo', f'train.latent_gan.epochs={epochs}', f'paper.samplers={SAMPLERS}', 'paper.shadows=2']))
        name = ('demo', 'long')[k]
        write_json(dict(name=name, digest=name[0], overrides=[], seed=0, figures=str(house/'figures'/name), settings=settings), house/'runs'/f'{name}-d'/'run.json')
    listed = [dict(folder=f'{n}-d', setting=n, seed=0) for n in ('demo', 'long')]
    write_json(read_json(house/'runs'/'demo-d'/'run.json') | dict(name='both', figures=str(house/'figures'/'both'), runs=listed), house/'runs'/'both-d'/'run.json')
    return house

def make(house, run='demo-d'):
    "Run the Snakefile; returns the notebooks that ran, the exit status and what was printed."
    code = 'import sys; from synkmimic.paper import snakemake_command as c; from pathlib import Path; print("\\n".join(c(Path(sys.argv[1]), 2)))'
    env = dict(os.environ, PYTHONPATH=str(house))
    command = subprocess.run([sys.executable, '-c', code, str(house/'runs'/run)], cwd=house, env=env, capture_output=True, text=True, check=True).stdout.split('\n')[:-1]
    done = subprocess.run(command, cwd=house, env=env, capture_output=True, text=True)
    return sorted(re.findall(r'^\[ *\d+/\d+(?: [\w-]+)?\] (\w+) +\.\.\. \d', done.stdout, re.M)), done.returncode, done.stdout + done.stderr

def test_only_what_is_stale_reruns(house):
    ran, status, said = make(house)
    assert status == 0 and ran == sorted(NAMES), said
    assert {p.name for p in (house/'figures'/'demo').iterdir()} >= {'manifest.json', 'numbers.json', 't1_cohort.tex', 'f1_pipeline.pdf'}
    assert make(house)[:2] == ([], 0), 'a second run does nothing'
    for p in (*house.glob('nbs/paper/*.ipynb'), *house.glob('runs/demo-d/notebooks/a0*.ipynb'), *house.glob('synkmimic/*.py')): os.utime(p)
    little(house, 'a5_fidelity', prose='Many more words about the same thing.')
    assert make(house)[:2] == ([], 0), 'times and prose do not count'
    little(house, 'a5_fidelity', more='x = 1')
    ran, status, said = make(house)
    assert status == 0, said
    assert ran == ['a5_draws', 'a5_fidelity', 'a8_release', 's2_ablation', 's5_variance', 't2_fidelity', 't8_dossier'], 'changed code reruns the notebook and what needs it'
    module = house/'synkmimic'/'schema.py'
    module.write_text(module.read_text() + '\n# a comment\n')
    assert make(house)[0] == [], 'a comment in a module does not count'
    module.write_text(module.read_text() + '\nNEW = 1\n')
    assert make(house)[0] == ['t1_cohort'], 'a changed module reruns what stands on it'

def test_a_failed_notebook_stops_and_the_rest_goes_on_later(house):
    little(house, 'a6_utility', more='raise ValueError("no such luck")')
    ran, status, said = make(house)
    assert status != 0 and 'no such luck' in said and 'a6_utility' not in ran
    notebooks = house/'runs'/'demo-d'/'notebooks'
    assert (notebooks/'a6_utility.failed.ipynb').exists() and not (notebooks/'a6_utility.ipynb').exists()
    little(house, 'a6_utility', more='y = 1')
    ran, status, said = make(house)
    needing = {'a6_utility', 'a5_draws', 'a8_release', 'f10_frontier', 's2_ablation', 's5_variance', 't3_utility', 't8_dossier'}
    assert status == 0 and needing <= set(ran) and not (notebooks/'a6_utility.failed.ipynb').exists(), said
    assert make(house)[:2] == ([], 0)

def test_manifest_names_what_made_the_figures(house):
    manifest = read_json(house/'figures'/'demo'/'manifest.json')
    assert sorted(manifest['notebooks']) == sorted(NAMES)
    assert manifest['packages']['torch'] and str(house) not in json.dumps(manifest)

def test_a_sweep_makes_what_differs_and_shares_the_rest(house):
    "After the ordinary run, a sweep with it and with a longer GAN: one new GAN and all that follows, the cohort and the VAEs linked, one comparison."
    ran, status, said = make(house, 'both-d')
    assert status == 0, said
    assert ran == ['a3_latent_gan', 'a4_generate', 'a5_draws', 'a5_fidelity', 'a6_utility', 'a7_privacy_model_based', 'a7_shadow_1', 'a7_shadow_2', 'f10_frontier', 's2_ablation', 's5_variance'], said
    assert sorted(re.findall(r'(\w+) +\.\.\. shared with demo-d', said)) == ['a0_cohort', 'a1_static_vae', 'a2_temporal_vae', 'a3_gaussian_mixture']
    assert {p.name for p in (house/'figures'/'both').iterdir()} >= {'s2_ablation.csv', 'manifest.json'}
    assert make(house, 'both-d')[:2] == ([], 0), 'a second sweep does nothing'
    spent = costs(house/'runs'/'both-d')
    assert set(spent.setting) == {'demo', 'long'} and (spent.seconds > 0).all() and {'a0_cohort', 'a3_latent_gan'} <= set(spent.stage)

def test_samplers_that_a_run_does_not_have_are_not_made():
    needs = dependencies()
    some = needed(needs, ['flow_matching', 'posterior'])
    assert some['a4_generate'] == ['a3_flow_matching'] and not {'a3_latent_gan', 'a3_gaussian_mixture'} & set(some)
    assert set(needs) - set(some) == {'a3_latent_gan', 'a3_gaussian_mixture', 'a7_shadow'}
    assert keys(some, 'd')['a4_generate'] != keys(needed(needs, ['latent_gan']), 'd')['a4_generate']

def shared(*overrides, needs=None):
    "Stages that a run with these overrides shares with the plain one."
    a, b = (share_keys(needs or dependencies(), resolved(compose(['profile=smoke', *o]))) for o in ((), overrides))
    return {k for k in a if a[k] == b[k]}

@pytest.mark.parametrize('override, changed', [
    ('evaluation.n_boot=7', []), ('paper.synthetic=50', []), ('model.sampler=gaussian_mixture', []),
    ('model.gaussian_mixture.components=2', ['a3_gaussian_mixture']), ('train.latent_gan.epochs=9', ['a3_latent_gan']),
    ('train.temporal_vae.epochs=9', ['a2', 'a3']), ('model.static_vae.latent_dim=3', ['a1', 'a2', 'a3']), ('train.static_vae.batch_size=9', ['a1', 'a2', 'a3']),
    ('transform.memory=0.4', ['a1', 'a2', 'a3']), ('paper.holdout=0.3', ['a0', 'a1', 'a2', 'a3']), ('simulate.n_stays=301', ['a0', 'a1', 'a2', 'a3']),
    ('data.hours=12', ['a0', 'a1', 'a2', 'a3']), ('seed=1', ['a0', 'a1', 'a2', 'a3'])])
def test_what_an_option_changes_is_made_again_and_nothing_else(override, changed):
    stages = {n for n in dependencies() if n[:2] in ('a0', 'a1', 'a2', 'a3')}
    assert stages - shared(override) == {n for n in stages if any(n.startswith(c) for c in changed)}

def test_copies_are_the_release_s_business():
    assert set(JUDGED) <= shared('paper.copies=2') and not set(JUDGED) <= shared('paper.draws=2')

def test_a_sweep_is_planned_from_seeds_settings_and_grid(tmp_path):
    (tmp_path/'s.yaml').write_text('seeds: [0, 1]\nsettings: {base: [], long: [train.latent_gan.epochs=9]}\ngrid: {train.latent_gan.lr: [1e-4, 2e-4]}\n')
    whole, runs = sweep(read_spec(tmp_path/'s.yaml'), 's', profile='smoke', runs=tmp_path, scratch=tmp_path)
    assert [(r['setting'], r['seed']) for r in runs] == [(s, k) for s in ('base', 'long', 'lr=0.0001', 'lr=0.0002') for k in (0, 1)]
    assert len({r['plan'].folder for r in runs}) == 8 and whole.folder.name.startswith('smoke-s-')
    prepare_sweep(whole, runs)
    jobs = jobs_of(whole.folder, dependencies())
    made = lambda n: sum(j.name == n and not j.lender for j in jobs)
    assert [made(n) for n in ('a0_cohort', 'a1_static_vae', 'a2_temporal_vae', 'a3_latent_gan', 'a6_utility')] == [2, 2, 2, 8, 8]
    order = {j.mark: k for k,j in enumerate(jobs)}
    assert all(order[i] < order[j.mark] for j in jobs for i in j.inputs), 'what is needed comes first'
    assert jobs[-1].name == 's2_ablation' and len(members(whole.folder)) == 8
    with pytest.raises(ConfigError, match='cannot read'): read_spec(tmp_path/'none.yaml')
    (tmp_path/'s.yaml').write_text('setting: {}')
    with pytest.raises(ConfigError, match="'settings'"): sweep(read_spec(tmp_path/'s.yaml'), 's', profile='smoke')
    with pytest.raises(ConfigError, match='epochz'): sweep(dict(settings=dict(a=['train.latent_gan.epochz=1'])), 's', profile='smoke')

def test_a_run_takes_over_what_another_one_has_finished(tmp_path):
    "Other options of the evaluation, the same models: nothing is trained again. An unfinished stage, or another seed's, is not taken."
    first, other, seed = (plan(overrides=o, seed=s, profile='smoke', runs=tmp_path, scratch=tmp_path) for o,s in (((), 0), (['evaluation.n_boot=7'], 0), ((), 1)))
    for p in (first, other, seed): prepare(p)
    for j in jobs_of(first.folder, dependencies())[:3]: # cohort and both VAEs; the samplers are not finished
        j.mark.parent.mkdir(exist_ok=True)
        j.mark.write_text('1.0\n')
        write_json({}, first.folder/'notebooks'/f'{j.name}.ipynb')
    lent = {j.name for j in jobs_of(other.folder, dependencies()) if j.lender == first.folder}
    assert lent == {'a0_cohort', 'a1_static_vae', 'a2_temporal_vae'}
    assert not any(j.lender for j in jobs_of(seed.folder, dependencies())) and not any(j.lender for j in jobs_of(first.folder, dependencies()))

def test_a_borrowed_stage_cannot_be_changed_by_the_borrower(tmp_path):
    one, two = tmp_path/'one', tmp_path/'two'
    for p in (one/'cohort'/'train'/'x.json', one/'registry'/'y.json', one/'scores'/'cohort.csv', two/'scores'/'fidelity.csv', one/'notebooks'/'a0_cohort.ipynb', one/'run.json', two/'run.json'): write_json(dict(seed=0, a=1), p)
    done_mark(one, 'a0_cohort', 'k').parent.mkdir()
    done_mark(one, 'a0_cohort', 'k').write_text('2.5\n')
    borrow('a0_cohort', two, one, 'k2')
    assert done_mark(two, 'a0_cohort', 'k2').read_text() == '2.5\n' and read_json(two/'cohort'/'train'/'x.json')['a'] == 1
    assert (two/'scores'/'cohort.csv').exists() and (two/'scores'/'fidelity.csv').exists() and not (two/'scores'/'cohort.parquet').exists()
    write_json(dict(a=2), two/'cohort'/'train'/'x.json')
    shutil.rmtree(two/'registry')
    assert read_json(one/'cohort'/'train'/'x.json')['a'] == 1 and (one/'registry'/'y.json').exists()

def known_scores(folder, shift):
    "Scores of a run in which the GAN is better than the mixture in three metrics and worse in one, and flow matching is not to be told from it."
    better = dict(latent_gan=(.05, .55, .80, .05), gaussian_mixture=(.10, .65, .75, .02), flow_matching=(.10 + shift, .65, .75, .02), posterior=(.03, .51, .82, .02), real=(.03, .50, .83, .02))
    what = dict(ks=('fidelity', 'all', '', 'lower'), c2st_auc_raw=('fidelity', 'all', '', 'half'), auroc=('utility', 'boosting', 'TSTR', 'higher'), acf_gap=('fidelity', 'all', '', 'lower'))
    rows = [dict(arm=arm, metric=m, pillar=p, feature=f, group='TRTR' if (arm, g) == ('real', 'TSTR') else g, direction=d, value=v + shift/10, low=v + shift/10 - .01, high=v + shift/10 + .01)
            for arm,values in better.items() for (m,(p,f,g,d)),v in zip(what.items(), values)]
    rows.append(dict(arm='real', metric='membership_auc', pillar='privacy', feature='best', group='', direction='half', value=.5, low=.48, high=.52))
    frame = pd.DataFrame(rows)
    for pillar,name in dict(fidelity='fidelity', utility='utility', privacy='privacy_model_based').items():
        (folder/'scores').mkdir(exist_ok=True)
        frame[frame.pillar == pillar].to_parquet(folder/'scores'/f'{name}.parquet')
    for stage,seconds in dict(a1_static_vae=10, a2_temporal_vae=50, a3_latent_gan=7, a3_gaussian_mixture=1).items():
        done_mark(folder, stage, 'k').parent.mkdir(exist_ok=True)
        done_mark(folder, stage, 'k').write_text(f'{seconds}\n')

@pytest.mark.parametrize('seeds', [[0], [0, 1]])
def test_the_ablation_finds_the_sampler_that_is_better(tmp_path, seeds):
    samplers = 'paper.samplers=[latent_gan,gaussian_mixture,flow_matching,posterior]'
    whole, runs = sweep(dict(seeds=seeds), 's', overrides=[samplers], profile='smoke', runs=tmp_path, scratch=tmp_path)
    prepare_sweep(whole, runs)
    for r in runs: known_scores(r['plan'].folder, 0.01*r['seed'])
    execute(ROOT/'nbs'/'paper'/'s2_ablation.ipynb', tmp_path/'out'/'s2.ipynb', dict(run=str(whole.folder), out=str(tmp_path/'figures')))
    table = pd.read_csv(tmp_path/'figures'/'s2_ablation.csv').set_index('Metric')
    row = lambda start: table.loc[next(i for i in table.index if i.startswith(start))]
    assert list(table.columns) == ['Real band', 'Latent GAN', 'Gaussian mixture', 'Flow matching', 'Posterior draws']
    assert list(row('Earns'))[1:] == ['yes', '–', 'no', '–'], table
    assert row('Better')['Latent GAN'] == '3' and row('Worse')['Latent GAN'] == '1' and row('Inside')['Posterior draws'] == '4'
    assert row('KS distance')['Latent GAN'].endswith('(0.040 to 0.060)' if len(seeds) == 1 else '(0.050 to 0.051)') # one seed: its interval; two: their range
    assert float(row('Training, both')['Latent GAN']) == 60 and float(row('Training, sampler')['Latent GAN']) == 7 and row('Training, sampler')['Posterior draws'] == '–'
    assert read_json(whole.folder/'numbers'/'s2_ablation.json')['s2_ablation.seeds'] == len(seeds)
