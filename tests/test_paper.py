"The rerunnable paper: what is refused, what is stale, what a failure leaves behind."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from synkmimic.core import ConfigError, SynkError, read_json, write_json
from synkmimic.paper import check_parameters, code_hash, execute, notebook_parameters, plan

ROOT = Path(__file__).resolve().parents[1]
NAMES = re.findall(r"^    (\w+)=\[", (ROOT/'Snakefile').read_text(), re.M)
PARAMETERS = "run = ''\noverrides = []\nout = '_scratch'\nsampler = 'latent_gan'\nkind = 'model_based'"
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
    suffixes = dict(t=('csv', 'tex', 'md'), f=('pdf', 'png')).get(name[0], ())
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
    "A copy of the project whose paper notebooks do nothing but write their files."
    house = tmp_path_factory.mktemp('house')
    for d in ('synkmimic', 'nbs'): shutil.copytree(ROOT/d, house/d, ignore=shutil.ignore_patterns('paper', '__pycache__'))
    for f in ('Snakefile', 'settings.ini'): shutil.copy(ROOT/f, house)
    from synkmimic.paper import variant
    for name in {variant(n)[0] for n in NAMES}: little(house, name, more='import synkmimic.schema' if name == 't1_cohort' else '')
    write_json(dict(name='demo', digest='d', overrides=[], seed=0, figures=str(house/'figures'/'demo')), house/'runs'/'demo-d'/'run.json')
    return house

def make(house):
    "Run the Snakefile; returns the notebooks that ran, the exit status and what was printed."
    code = 'import sys; from synkmimic.paper import snakemake_command as c; from pathlib import Path; print("\\n".join(c(Path(sys.argv[1]), 2)))'
    env = dict(os.environ, PYTHONPATH=str(house))
    command = subprocess.run([sys.executable, '-c', code, str(house/'runs'/'demo-d')], cwd=house, env=env, capture_output=True, text=True, check=True).stdout.split('\n')[:-1]
    done = subprocess.run(command, cwd=house, env=env, capture_output=True, text=True)
    return sorted(re.findall(r'^\[ *\d+/\d+\] (\w+) +\.\.\.', done.stdout, re.M)), done.returncode, done.stdout + done.stderr

def test_only_what_is_stale_reruns(house):
    ran, status, said = make(house)
    assert status == 0 and ran == sorted(NAMES), said
    assert {p.name for p in (house/'figures'/'demo').iterdir()} >= {'manifest.json', 'numbers.json', 't1_cohort.tex', 'f1_pipeline.pdf'}
    assert make(house)[:2] == ([], 0), 'a second run does nothing'
    for p in (*house.glob('nbs/paper/*.ipynb'), *house.glob('runs/demo-d/notebooks/a0*.ipynb'), *house.glob('synkmimic/*.py')): os.utime(p)
    little(house, 'a5_fidelity', prose='Many more words about the same thing.')
    assert make(house)[:2] == ([], 0), 'times and prose do not count'
    little(house, 'a5_fidelity', more='x = 1')
    assert make(house)[0] == ['a5_fidelity', 'f4_acf', 't2_fidelity'], 'changed code reruns the notebook and what needs it'
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
    assert status == 0 and ran == ['a6_utility', 't3_utility'] and not (notebooks/'a6_utility.failed.ipynb').exists(), said

def test_manifest_names_what_made_the_figures(house):
    manifest = read_json(house/'figures'/'demo'/'manifest.json')
    assert sorted(manifest['notebooks']) == sorted(NAMES)
    assert manifest['packages']['torch'] and str(house) not in json.dumps(manifest)
