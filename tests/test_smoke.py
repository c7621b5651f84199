"The whole paper at the smallest size, through the command that make calls."
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from synkmimic.cohort import Cohort
from synkmimic.core import read_json
from synkmimic.paper import snakemake_command
from synkmimic.sources.load import READERS
from synkmimic.toy import toy_cohort

ROOT = Path(__file__).resolve().parents[1]

def paper(*args, runs, name='smoke-test'):
    "What `make paper PROFILE=smoke` runs, into another runs folder."
    command = [sys.executable, '-m', 'synkmimic.paper', *args, '--profile', 'smoke', '--runs', str(runs), '--name', name]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

def told(done):
    "What a failed run said of itself, without Snakemake's small talk."
    quiet = ('Select jobs', 'Execute ', 'Assuming ', 'Building DAG', 'Using shell')
    return '\n'.join(l for l in (done.stdout + done.stderr).splitlines() if not l.startswith(quiet))

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "One smoke run for all tests here."
    runs = tmp_path_factory.mktemp('runs')
    done = paper('run', runs=runs)
    assert done.returncode == 0, told(done)
    (folder,) = runs.iterdir()
    return folder, done.stdout

def test_every_stage_reports(run):
    folder, said = run
    assert not list(folder.glob('notebooks/*.failed.ipynb'))
    done = sorted(p.stem for p in folder.glob('notebooks/*.ipynb'))
    assert all(f' {name} ' in said for name in done) and len(done) >= 14
    train, holdout, synth = (Cohort.load(folder/p) for p in ('cohort/train', 'cohort/holdout', 'synthetic/latent_gan'))
    assert not set(train.subject_id) & set(holdout.subject_id)
    assert synth.schema == train.schema and len(synth) == len(train)
    assert not set(synth.stay_id) & set(train.stay_id)

def test_tables_and_figures_are_there(run):
    folder, _ = run
    figures = Path(read_json(folder/'run.json')['figures'])
    assert '_scratch' in figures.parts, 'a smoke run never draws into figures/'
    for name in ('t1_cohort', 't2_fidelity', 't3_utility', 't4_augmentation', 't5_membership'):
        assert not pd.read_csv(figures/f'{name}.csv').empty
        assert r'\toprule' in (figures/f'{name}.tex').read_text() and '| --- |' in (figures/f'{name}.md').read_text()
    for name in ('f1_pipeline', 'f2_marginals', 'f4_acf', 'f7_augmentation', 'f11_calibration'):
        assert (figures/f'{name}.pdf').read_bytes()[:4] == b'%PDF' and (figures/f'{name}.png').stat().st_size > 10_000
    assert b'CreationDate' not in (figures/'f1_pipeline.pdf').read_bytes()
    manifest, numbers = read_json(figures/'manifest.json'), read_json(figures/'numbers.json')
    assert manifest['data']['origin'] == 'simulated' and manifest['cohorts']['cohort/train']['fingerprint']
    assert all('.' in k and not isinstance(v, (dict, list)) for k,v in numbers.items())

def test_scores_carry_intervals_and_controls(run):
    folder, _ = run
    scores = pd.read_parquet(folder/'scores'/'fidelity.parquet')
    assert {'pillar', 'metric', 'feature', 'group', 'value', 'low', 'high', 'n', 'direction', 'arm'} <= set(scores)
    assert {'latent_gan', 'gaussian_mixture', 'independent_marginals', 'verbatim_copy'} <= set(scores.arm)

def test_a_second_run_does_nothing(run):
    folder, _ = run
    before = {p: p.stat().st_mtime_ns for p in folder.glob('notebooks/*.ipynb')}
    start = time.monotonic()
    again = paper('run', runs=folder.parent)
    assert again.returncode == 0 and '...' not in again.stdout, told(again)
    assert {p: p.stat().st_mtime_ns for p in folder.glob('notebooks/*.ipynb')} == before
    assert time.monotonic() - start < 60

def test_figures_that_are_already_there_do_not_stand_in_for_a_run(run, tmp_path):
    "A fresh clone has committed figures and no run: everything is planned, nothing is taken as done."
    assert (Path(read_json(run[0]/'run.json')['figures'])/'manifest.json').exists()
    assert paper('run', '--dry', runs=tmp_path).returncode == 0
    (fresh,) = tmp_path.iterdir()
    command = snakemake_command(fresh, 1, more=['--dry-run'])
    quiet = command.index('--quiet')
    plan = subprocess.run(command[:quiet] + command[quiet + 5:], cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0 and all(n in plan.stdout + plan.stderr for n in ('a0_cohort', 'a5_fidelity', 'manifest')), plan.stdout + plan.stderr

def test_one_stage_with_explicit_checkpoints(run):
    folder, _ = run
    inputs = dict(cohort='cohort/train', transform='models/transform', static_vae='models/static_vae', temporal_vae='models/temporal_vae')
    given = [a for k,v in inputs.items() for a in ('-p', f'{k}={folder/v}')]
    done = paper('one', 'a3_latent_gan', '--overrides', 'train.latent_gan.epochs=1', *given, runs=folder.parent)
    assert done.returncode == 0, told(done)
    (own,) = [p for p in folder.parent.iterdir() if p != folder]
    assert (own/'models'/'latent_gan'/'model'/'model.json').exists() and not (own/'cohort').exists()

def test_a_stage_without_its_inputs_says_what_to_run(tmp_path):
    done = paper('one', 'a2_temporal_vae', runs=tmp_path)
    assert done.returncode == 1 and 'make stage NAME=a0_cohort' in done.stderr and 'Traceback' not in done.stderr

def own_tables(cohort, folder):
    "A cohort as two tables in long form."
    folder.mkdir()
    names = cohort.schema.outcomes
    cohort.static.assign(stay_id=cohort.stay_id, subject_id=cohort.subject_id, outcome=[names[k] for k in cohort.outcome],
                         length_hours=cohort.length).to_csv(folder/'stays.csv', index=False)
    parts = [(cohort.mask, cohort.values, cohort.schema.names('values')), (cohort.flags > 0, cohort.flags, cohort.schema.names('flags'))]
    long = []
    for here,array,variables in parts:
        i, hour, k = here.nonzero()
        long.append(pd.DataFrame(dict(stay_id=cohort.stay_id[i], hour=hour + 0.5, variable=[variables[j] for j in k], value=array[i, hour, k])))
    pd.concat(long).to_csv(folder/'events.csv', index=False)
    return folder

@pytest.mark.long
def test_two_tables_of_your_own_go_all_the_way(tmp_path):
    "From somebody's tables to scores, attacks and dossier; the items that only draw are those of the run above, but for one that finds too few people here."
    folder = own_tables(toy_cohort(n=400), tmp_path/'own')
    items = ('t1_cohort', 't3_utility', 't5_membership', 't8_dossier', 'f10_frontier')
    small = 'paper.samplers=[latent_gan] paper.shadows=0 paper.privacy_controls=[leak_0.1]'
    done = paper('run', '--data', str(folder), '--overrides', small, *items, runs=tmp_path/'runs', name='smoke-own')
    assert done.returncode == 0, told(done)
    (made,) = (tmp_path/'runs').iterdir()
    synth = Cohort.load(made/'synthetic/latent_gan')
    assert synth.schema.source == 'tables' and synth.schema.origin == 'restricted'
    figures = Path(read_json(made/'run.json')['figures'])
    assert all(list(figures.glob(f'{i}.*')) for i in items)

def test_the_method_figure_has_a_name_for_every_source():
    text = (ROOT/'nbs'/'paper'/'f1_pipeline.ipynb').read_text(encoding='utf-8')
    assert all(f'{source}=' in text for source in READERS)
