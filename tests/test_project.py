"The project's own files agree with each other."
import ast
import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INI = configparser.ConfigParser()
INI.read(ROOT/'settings.ini')
SETTINGS = dict(INI['DEFAULT'])
PYPROJECT = tomllib.loads((ROOT/'pyproject.toml').read_text())
README = (ROOT/'README.md').read_text()
MAKE = (ROOT/'Makefile').read_text()
TARGETS = set(re.findall(r'^([a-z-]+):.*##', MAKE, re.M))

def test_settings_equal_pyproject():
    for k,v in PYPROJECT['tool']['nbdev'].items(): assert SETTINGS[k] == (' '.join(v) if isinstance(v, list) else v), k
    assert SETTINGS['lib_name'] == PYPROJECT['project']['name'] and SETTINGS['description'] == PYPROJECT['project']['description']
    assert f">={SETTINGS['min_python']}" == PYPROJECT['project']['requires-python']
    assert re.search(r"__version__ = ['\"](.+)['\"]", (ROOT/'synkmimic'/'__init__.py').read_text())[1] == SETTINGS['version']
    assert f"version: {SETTINGS['version']}" in (ROOT/'CITATION.cff').read_text()

def test_lock_pins_everything():
    lines = [l for l in (ROOT/'requirements.lock').read_text().splitlines() if l and not l.startswith('#')]
    assert 'torch==2.13.0' in lines and all(re.fullmatch(r'[A-Za-z0-9_.-]+==[^ ]+', l) for l in lines)
    assert not [l for l in lines if l.startswith(('nvidia-', 'triton'))], 'GPU packages come with a torch of the user, not from the lock'
    locked = {l.split('==')[0].lower().replace('_', '-') for l in lines}
    wanted = [*PYPROJECT['project']['dependencies'], *PYPROJECT['project']['optional-dependencies']['dev']]
    assert {re.split(r'[<>=]', d)[0].lower() for d in wanted} <= locked

def test_make_targets_of_the_readme_exist():
    assert {'paper', 'prose', 'batch', 'sweep', 'verify', 'install', 'wheelhouse', 'test', 'test-all', 'check', 'export', 'docs', 'lab', 'clean', 'help', 'stage', 'outputs'} == TARGETS
    assert set(re.findall(r'^\s*make ([a-z]+)', README, re.M)) <= TARGETS
    variables = set(re.findall(r'^([A-Z]+) \?=', MAKE, re.M)) | {'NAME', 'ITEMS', 'PYTEST'} | set(re.findall(r'\$\(if \$\(([A-Z]+)\)', MAKE))
    used = {v for line in re.findall(r'^\s*make .*', README, re.M) for v in re.findall(r'\b([A-Z]+)=', line)}
    assert used <= variables, used - variables

def test_make_help_lists_the_targets():
    said = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True).stdout
    assert all(f'make {t}' in said for t in TARGETS)

def test_files_and_links_of_the_readme_exist():
    for link in re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', README):
        path = link[0] or link[1]
        if not path.startswith('http') and not path.startswith('figures/'): assert (ROOT/path).exists(), path
    for name in re.findall(r'`nbs/paper/(\w+)\.ipynb`|\[(\w+)\]\(nbs/paper', README): assert (ROOT/'nbs'/'paper'/f'{name[0] or name[1]}.ipynb').exists(), name

def python_of_readme(): return re.findall(r'```python\n(.*?)```', README, re.S)

def test_python_of_the_readme_uses_public_names():
    import synkmimic
    for block in python_of_readme():
        for n in ast.walk(ast.parse(block)):
            if isinstance(n, ast.ImportFrom) and n.module == 'synkmimic': assert all(hasattr(synkmimic, a.name) for a in n.names)

@pytest.mark.slow
def test_python_of_the_readme_runs():
    subprocess.run([sys.executable, '-c', python_of_readme()[0]], cwd=ROOT, check=True, timeout=600)

def test_ci_calls_the_readme_command():
    assert 'make' in (ROOT/'.ci'/'run').read_text() and (ROOT/'.ci'/'run').stat().st_mode & 0o111

def test_no_pickle_and_no_machine_paths():
    for p in [*ROOT.glob('synkmimic/**/*.py'), *ROOT.glob('benchmarks/*.py'), ROOT/'Makefile', ROOT/'Snakefile', *ROOT.glob('synkmimic/conf/**/*.yaml')]:
        source = p.read_text(encoding='utf-8')
        assert not re.search(r'import pickle|pickle\.load|read_pickle|joblib\.load|torch\.load\(|allow_pickle=True', source), p
        assert not re.search(r'(?<![\w.])/(tmp|work|root|home)/\w', source), p
