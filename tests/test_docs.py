"The site's own pages: their Python runs, their commands exist, and the scripts that build and check it do what they say."
import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT/'docs'
HOWTO = sorted((DOCS/'howto').glob('*.md'))
every = pytest.mark.parametrize('page', HOWTO, ids=lambda p: p.stem)

def script(name):
    "A script of docs/ as a module."
    spec = importlib.util.spec_from_file_location(f'docs_{name}', DOCS/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def blocks(page, language): return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(encoding='utf-8'), re.M | re.S)

@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    "A folder to work in that has the committed figures, as the repository has."
    (tmp_path/'figures').symlink_to(ROOT/'figures')
    monkeypatch.chdir(tmp_path)
    return tmp_path

@every
def test_python_of_the_howto_runs(page, elsewhere):
    names, said = {'__name__': 'howto'}, io.StringIO()
    with contextlib.redirect_stdout(said):
        for i,block in enumerate(blocks(page, 'python')): exec(compile(block, f'{page.name}, block {i + 1}', 'exec'), names)
    assert said.getvalue().strip(), 'a page that shows nothing'

def test_data_check_of_the_howto(elsewhere, capsys):
    from synkmimic.cli import main
    page = DOCS/'howto'/'own-data.md'
    names = {}
    for block in blocks(page, 'python')[:2]: exec(block, names)
    commands = [l.split() for b in blocks(page, 'sh') for l in b.splitlines() if l.startswith('.venv/bin/synkmimic')]
    assert commands and [main(c[1:]) for c in commands] == [0]*len(commands)
    assert 'ok' in capsys.readouterr().out

def test_make_commands_exist():
    make = (ROOT/'Makefile').read_text()
    targets, variables = set(re.findall(r'^([a-z]+):.*##', make, re.M)), set(re.findall(r'^([A-Z]+) \?=', make, re.M)) | {'ITEMS'}
    for page in [*HOWTO, DOCS/'index.md']:
        for line in re.findall(r'^make .*', '\n'.join(blocks(page, 'sh')), re.M):
            assert line.split()[1] in targets, f'{page.name}: {line}'
            assert set(re.findall(r'\b([A-Z]+)=', line)) <= variables, f'{page.name}: {line}'

def test_options_and_files_named_exist():
    from synkmimic.config import compose
    compose({o for page in HOWTO for asked in re.findall(r"OVERRIDES='([^']+)'", page.read_text(encoding='utf-8')) for o in asked.split()} | {'profile=smoke'})
    for page in HOWTO:
        text = page.read_text(encoding='utf-8')
        for path in re.findall(r'`((?:nbs|synkmimic|docs)/[\w./-]+\.\w+)`', text):
            assert (ROOT/path).exists() or 'one_normal' in path, f'{page.name}: {path}'

@every
def test_links_of_the_howto(page):
    items = {p.stem for p in (ROOT/'nbs'/'paper').glob('*.ipynb')}
    for link in re.findall(r'\]\((\.\./[^)#]+)\)', page.read_text(encoding='utf-8')):
        kind, name = link.split('/')[1], link.split('/')[-1]
        assert (ROOT/link.removeprefix('../')).exists() if kind == 'nbs' else name.removesuffix('.md') in items if kind == 'paper' else (DOCS/kind).exists(), link

def test_item_pages_show_what_is_committed():
    build = script('build')
    for name in ('t2_fidelity', 'f4_acf', 's3_features'):
        page = build.item_page(ROOT/'nbs'/'paper'/f'{name}.ipynb')
        shown = set(re.findall(r'figures/challenge2012/(\S+\.png)', page))
        assert shown == {p.name for p in (ROOT/'figures'/'challenge2012').glob(f'{name}*.png')}
        for table in (ROOT/'figures'/'challenge2012').glob(f'{name}*.md'): assert table.read_text().strip() in page
        assert f'../nbs/paper/{name}.ipynb' in page

def test_api_has_every_public_name_with_its_comments():
    build = script('build')
    for module,notebook in build.modules():
        name, page = build.module_page(module, notebook)
        public = re.search(r'__all__ = \[(.*?)\]', module.read_text(), re.S)[1]
        for n in re.findall(r"'(\w+)'", public): assert re.search(rf'\{{py:\w+\}} {n}\b', page), f'{name}.{n}'
    page = build.module_page(ROOT/'synkmimic'/'stats.py', ROOT/'nbs'/'50_stats.ipynb')[1]
    assert ':param metric:' not in page and 'the mean over features' in page and ':param overall: metric name of the mean over features' in page

def test_pages_laid_out_link_to_pages(tmp_path):
    script('build').lay_out(tmp_path/'source')
    pages = list((tmp_path/'source').rglob('*.md'))
    assert {'index.md', 'findings.md', 'paper.md', 'api.md'} <= {p.name for p in pages}
    broken = [f'{p.name}: {link}' for p in pages for link in re.findall(r'\]\(([\w./-]+\.\w+)', re.sub(r'`[^`]*`', '', p.read_text(encoding='utf-8')))
              if not (p.parent/link).exists()]
    assert not broken, broken

@pytest.mark.long
def test_the_site_builds_without_a_warning_or_broken_link(tmp_path):
    done = subprocess.run([sys.executable, DOCS/'build.py', tmp_path/'html'], capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert done.returncode == 0 and (tmp_path/'html'/'findings.html').exists(), done.stdout + done.stderr

def test_formulas_become_mathml():
    pytest.importorskip('latex2mathml', reason='part of requirements.lock, not installed here')
    mathml = script('formulas').mathml
    assert re.search(r'<mfrac>.*<mi>x</mi>.*</mfrac>', mathml(r'\frac{x}{2}', True)) and 'display="block"' in mathml('x', True)
    assert '\\' not in mathml(r'\text{the nearest 1 \% of them}', False)

@pytest.mark.parametrize('page,wrong', [('<a href="b.html">x</a>', 'there is no b.html'), ('<a href="#x">x</a>', 'no anchor #x'), ('<img src="a.html">', 'without words'),
                                        ('<script src="https://cdn.example/x.js"></script>', 'loads https'), ('<link rel="stylesheet" href="//cdn.example/x.css">', 'loads //'),
                                        ('<a href="a.html#here">x</a><p id="here">', '')])
def test_link_check(tmp_path, page, wrong):
    (tmp_path/'a.html').write_text(f'<html><body>{page}</body></html>')
    found = script('check_links').problems(tmp_path)
    assert (wrong in found[0] and len(found) == 1) if wrong else found == []
