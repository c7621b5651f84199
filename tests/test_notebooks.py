"Guards on the notebooks: layered one way, small, exported, quiet, and free of people."
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
PAPER = sorted((ROOT/'nbs'/'paper').glob('*.ipynb'))
APART = {('fidelity', 'models'), ('utility', 'models'), ('privacy', 'models'), ('models', 'sources'), ('sources', 'models'), ('plots', 'fidelity'),
         ('plots', 'utility'), ('plots', 'privacy'), ('tables', 'fidelity'), ('tables', 'utility'), ('tables', 'privacy')}

def book(path): return json.loads(path.read_text(encoding='utf-8'))
def code(path): return [c for c in book(path)['cells'] if c['cell_type'] == 'code']
def text(c): return ''.join(c['source'])
def exported(path): return [text(c) for c in code(path) if re.match(r'#\|\s*export', text(c))]
def module(path): return next(m[1] for c in code(path) if (m := re.match(r'#\|\s*default_exp:?\s+(\S+)', text(c))))

ORDER = {module(p): i for i,p in enumerate(NBS)}
every = lambda paths: pytest.mark.parametrize('nb', paths, ids=lambda p: p.stem)

def own_imports(source):
    for n in ast.walk(ast.parse(source)):
        if isinstance(n, ast.ImportFrom) and (n.module or '').startswith('synkmimic'): yield n.module[10:], [a.name for a in n.names]

@every(NBS)
def test_layering(nb):
    here = module(nb)
    for mod,names in (i for source in exported(nb) for i in own_imports(source)):
        for target in [mod] if mod in ORDER else [f'{mod}.{n}'.strip('.') for n in names]:
            assert target in ORDER, f'{here} imports {target}, which no notebook makes'
            assert ORDER[target] < ORDER[here], f'{here} reaches up to {target}'
            assert (here.split('.')[0], target.split('.')[0]) not in APART, f'{here} must not know {target}'
        assert names[0] != '*', f'star import of {mod}'

@every(NBS)
def test_exported_code_stands_alone(nb):
    for source in exported(nb):
        for n in ast.walk(ast.parse(source)):
            names = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module or ''] if isinstance(n, ast.ImportFrom) else []
            assert not {x.split('.')[0] for x in names} & {'nbdev', 'fastcore', 'pytest'}, f'{nb.stem}: development packages in exported code'

@every(NBS)
def test_import_cells_are_pure(nb):
    for source in exported(nb):
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body}
        assert len(kinds) <= 1, f'{nb.stem}: imports and other code in one cell:\n{source[:200]}'

@every(NBS + PAPER)
def test_small(nb):
    assert len(code(nb)) <= 60 and nb.stat().st_size < 400_000
    longest, prose = max(text(c).count('\n') + 1 for c in code(nb)), sum(len(text(c).split()) for c in book(nb)['cells'] if c['cell_type'] == 'markdown')
    assert longest <= 45, f'a cell of {longest} lines: one thought, one cell'
    assert prose >= (80 if nb in NBS else 30), f'{prose} words of prose'

@every(NBS)
def test_library_notebooks_show_their_work(nb):
    outputs = [o for c in code(nb) for o in c['outputs']]
    assert outputs, 'run it and keep the outputs: make outputs'
    assert sum('image/png' in o.get('data', {}) for o in outputs) <= 3
    assert not any(o['output_type'] == 'error' for o in outputs)

@every(PAPER)
def test_paper_is_parameterised_and_silent(nb):
    first = code(nb)[0]
    assert 'parameters' in first['metadata'].get('tags', []) and '_scratch' in text(first)
    assert not any(c['outputs'] for c in code(nb)), 'results belong in runs/ and figures/, not in the notebook source'
    assert not any(re.search(r'^#\|\s*(slow|gpu|data|eval)', text(c), re.M) for c in code(nb)), 'papermill ignores directives'

@every(NBS + PAPER)
def test_no_machine_in_a_notebook(nb):
    cells = json.loads(nb.read_text(encoding='utf-8'))['cells']
    for c in cells: # a picture is base64, in which any four letters may occur
        for o in c.get('outputs', []): o.get('data', {}).pop('image/png', None)
    whole = json.dumps(cells, ensure_ascii=False)
    assert not re.search(r'(?<![\w.])/(tmp|work|root|home|Users)/\w', whole), 'a path of a machine'
    assert not re.search(r'pickle\.load|read_pickle|joblib\.load|torch\.load\(|allow_pickle=True', whole), 'a pickle is never loaded'
    assert not re.search(r'(TO' + r'DO|FIX' + r'ME|NotImplemented' + r'Error)', whole)

def restricted(nb:dict)->bool:
    "Whether a notebook was executed on data that may not be shown."
    mark = nb['metadata'].get('synkmimic', {})
    return mark.get('origin', 'simulated') not in ('simulated', 'open') and any(c.get('outputs') for c in nb['cells'])

def tracked():
    listed = subprocess.run(['git', 'ls-files', '*.ipynb'], cwd=ROOT, capture_output=True, text=True)
    return [ROOT/p for p in listed.stdout.splitlines() if (ROOT/p).exists()] if listed.returncode == 0 else [*NBS, *PAPER]

def test_no_restricted_outputs_in_git():
    for p in tracked():
        assert not restricted(book(p)), f'{p.name} holds outputs from restricted data'
        assert 'papermill' not in book(p)['metadata'], f'{p.name} is an executed notebook: it belongs in runs/'

def test_the_guard_would_notice():
    cells = [dict(cell_type='code', outputs=[dict(output_type='stream')])]
    assert restricted(dict(metadata=dict(synkmimic=dict(origin='restricted')), cells=cells))
    assert not restricted(dict(metadata=dict(synkmimic=dict(origin='open')), cells=cells))

def test_no_patient_tables_in_git():
    listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert not [p for p in listed if p.endswith(('.parquet', '.csv.gz', '.npz', '.npy', '.safetensors', '.pt', '.pkl'))]

def test_exported(tmp_path):
    for d in ('nbs', 'synkmimic'): shutil.copytree(ROOT/d, tmp_path/d, ignore=shutil.ignore_patterns('paper', '__pycache__', '.*'))
    for f in ('settings.ini', 'pyproject.toml', 'README.md'):
        if (ROOT/f).exists(): shutil.copy(ROOT/f, tmp_path)
    env = {k: v for k,v in os.environ.items() if k != 'IN_TEST'} # nbdev-export is a silent no-op when IN_TEST is set
    subprocess.run([Path(sys.executable).parent/'nbdev-export'], cwd=tmp_path, env=env, check=True, capture_output=True)
    modules = [Path('synkmimic', *module(p).split('.')).with_suffix('.py') for p in NBS]
    stale = [str(m) for m in modules if not (ROOT/m).exists() or (tmp_path/m).read_text() != (ROOT/m).read_text()]
    assert not stale, f'run make export: {stale}'
