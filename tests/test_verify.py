"Committed numbers against new ones: what counts as a difference, and the command's exit status."
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from synkmimic.core import ConfigError, DataError, read_json, write_json
from synkmimic.paper import executor_profile
from synkmimic.verify import FAMILIES, compare, family_of, main, parts, planned, said, settings_of

ROOT = Path(__file__).resolve().parents[1]
RUNS = [p.parent for p in sorted((ROOT/'figures').glob('*/numbers.json'))]

@pytest.fixture
def copy(tmp_path):
    "A copy of the committed demo."
    shutil.copytree(ROOT/'figures'/'demo', tmp_path/'demo')
    return tmp_path/'demo'

def edit(folder, key, change):
    numbers = read_json(folder/'numbers.json')
    numbers[key] = change(numbers[key])
    write_json(numbers, folder/'numbers.json')

@pytest.mark.parametrize('folder', RUNS, ids=lambda p: p.name)
def test_committed_folders_are_read_whole(folder):
    "Every number and every table's every cell has a key of its own, and a folder equals itself."
    whole = said(folder)
    cells = sum(f.size - len(f) if f.shape[1] > 1 else f.size for f in (pd.read_csv(p, dtype=str, keep_default_na=False) for p in folder.glob('*.csv')))
    assert len(whole) == len(read_json(folder/'numbers.json')) + cells
    same = compare(folder, folder, strict=True)
    assert same.good and same.moved.empty and set(same.files.state) == {'identical'}

def test_a_count_may_not_move_and_a_fit_a_little(copy):
    committed = ROOT/'figures'/'demo'
    edit(copy, 't1_cohort.stays_all', lambda v: v + 1)
    edit(copy, 't2_fidelity.gaussian_mixture.ks', lambda v: v + 0.009)
    edit(copy, 't2_fidelity.gaussian_mixture.tvd', lambda v: v + 0.011)
    edit(copy, 't2_fidelity.verbatim_copy.ks', lambda v: v + 0.009)
    moved = compare(committed, copy).moved.set_index('key').verdict.to_dict()
    assert moved == {'stays_all': 'OUTSIDE', 'gaussian_mixture.ks': 'within', 'gaussian_mixture.tvd': 'OUTSIDE', 'verbatim_copy.ks': 'OUTSIDE'}

def test_cells_are_compared_as_words_and_numbers(copy):
    table = copy/'t3_utility.csv'
    cell = pd.read_csv(table, dtype=str)['Latent GAN'][0]
    value, low, high = parts(cell)[1]
    quarter = (float(high) - float(low))/4
    for shift,verdict in ((0.9*quarter, 'within'), (1.2*quarter + 0.001, 'OUTSIDE')):
        moved = cell.replace(value, f'{float(value) + shift:.3f}', 1)
        table.write_text((ROOT/'figures'/'demo'/'t3_utility.csv').read_text().replace(cell, moved, 1))
        found = compare(ROOT/'figures'/'demo', copy).moved
        assert list(found.verdict) == [verdict] or found.tolerance[0] > quarter, found
    table.write_text((ROOT/'figures'/'demo'/'t3_utility.csv').read_text().replace(cell, 'not enough deaths', 1))
    found = compare(ROOT/'figures'/'demo', copy).moved
    assert list(found.family) == ['words'] and list(found.verdict) == ['OUTSIDE']

def test_what_is_lost_is_a_difference_and_what_is_new_is_told(copy):
    (copy/'t2_fidelity.csv').unlink()
    lost = compare(ROOT/'figures'/'demo', copy)
    assert not lost.good and len(lost.lost) > 20 and lost.files.set_index('file').state['t2_fidelity.csv'] == 'lost'
    new = compare(copy, ROOT/'figures'/'demo')
    assert new.good and len(new.new) == len(lost.lost)

def test_a_damaged_table_is_named(copy):
    (copy/'t2_fidelity.csv').write_text('a,b\n"1,2\n')
    with pytest.raises(DataError, match='t2_fidelity.csv'): said(copy)

def test_every_family_is_met_by_the_committed_numbers():
    "A family that no number belongs to would be a tolerance for nothing."
    met = {family_of(f"{item}.{key.replace(' | ', '.')}", False).name for f in RUNS for item,key in said(f)}
    assert met == {f.name for f in FAMILIES} | {'seconds'} and all(f.why and f.absolute >= 0 for f in FAMILIES)

def test_the_command_says_it_with_its_exit_status(copy, capsys):
    assert main([str(ROOT/'figures'/'demo'), str(copy)]) == 0 and 'VERIFIED' in capsys.readouterr().out
    edit(copy, 't1_cohort.people_train', lambda v: v - 1)
    assert main([str(ROOT/'figures'/'demo'), str(copy), '--out', str(copy/'d.csv')]) == 1
    said_ = capsys.readouterr().out
    assert 'NOT VERIFIED' in said_ and re.search(r'people_train .*OUTSIDE', said_) and len(pd.read_csv(copy/'d.csv')) == 1
    assert main([str(copy)]) == 2 and main([str(copy/'nowhere'), str(copy)]) == 2

def test_a_rerun_stays_away_from_what_is_committed(tmp_path):
    committed, p = planned('demo', scratch=tmp_path)
    assert committed == ROOT/'figures'/'demo' and p.figures == tmp_path/'demo'/'figures' and p.folder.parent == tmp_path/'demo'
    assert list(p.overrides) == read_json(committed/'manifest.json')['overrides']
    with pytest.raises(ConfigError, match="'demo'"): planned('demos')
    with pytest.raises(ConfigError, match='ROOT=path'): planned('challenge2012')
    with pytest.raises(ConfigError, match='make batch'): planned('challenge2012-seeds')
    known = settings_of(ROOT/'figures'/'challenge2012')
    assert known['data'] == 'challenge2012' and not any('root' in o for o in known['overrides'])

def test_executors_are_profiles(tmp_path):
    assert executor_profile('') == [] and executor_profile('slurm') == ['--profile', str(ROOT/'profiles'/'slurm')]
    (tmp_path/'config.yaml').write_text('executor: slurm\n')
    assert executor_profile(str(tmp_path)) == ['--profile', str(tmp_path)]
    with pytest.raises(ConfigError, match="'slurm'"): executor_profile('slurn')

def make(*args): return subprocess.run(['make', '-n', f'PY={sys.executable}', *args], cwd=ROOT, capture_output=True, text=True).stdout

def test_make_hands_over_seeds_samplers_and_executor():
    line = make('batch', 'SEEDS=0 1', 'SAMPLERS=latent_gan flow_matching', 'OVERRIDES=paper.draws=2', 'EXECUTOR=slurm')
    assert "--seeds '0 1'" in line and '"paper.draws=2 paper.samplers=[latent_gan,flow_matching]"' in line and "--executor 'slurm'" in line
    assert '-r \'profiles/slurm/requirements.txt\'' in line
    assert 'requirements.txt' not in make('paper') and "--rerun 'challenge2012-paper'" in make('verify', 'DATA=challenge2012', 'PROFILE=paper')
    assert "--rerun 'demo'" in make('verify') and "--rerun 'other'" in make('verify', 'RUN=other', 'DATA=kmimic')

def test_offline_uses_the_wheelhouse_alone(tmp_path):
    for name in ('Makefile', 'requirements.lock', 'pyproject.toml'): shutil.copy(ROOT/name, tmp_path/name)
    done = subprocess.run(['make', 'install', 'OFFLINE=1', f'PYTHON={sys.executable}'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and 'make wheelhouse' in done.stdout and not (tmp_path/'.venv').exists()
    (tmp_path/'wheelhouse').mkdir()
    (tmp_path/'wheelhouse'/'a-1-py3-none-any.whl').write_bytes(b'x')
    (tmp_path/'wheelhouse'/'SHA256SUMS').write_text(f"{'0'*64}  a-1-py3-none-any.whl\n")
    done = subprocess.run(['make', 'install', 'OFFLINE=1', f'PYTHON={sys.executable}'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and 'damaged' in done.stdout and not (tmp_path/'.venv').exists()
