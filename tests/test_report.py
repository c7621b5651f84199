"The run report: one page that stands alone, says what is true of the folder, and lets nothing of a notebook become markup."
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from synkmimic import report
from synkmimic.core import SynkError, read_json, write_json
from synkmimic.paper import dependencies, keys, needed_by, plan, prepare
from synkmimic.tables import save_table

ROOT = Path(__file__).resolve().parents[1]
EVIL = '<script>alert("환자")</script>'

def cell(*outputs, count=1): return dict(cell_type='code', execution_count=count, outputs=list(outputs))
def stream(text): return dict(output_type='stream', name='stderr', text=[text])

def leave(run, name, cells=(), suffix='', mark='', **meta):
    "What the runner leaves of a notebook; `mark` is the key of its result."
    book = dict(cells=list(cells), metadata=dict(papermill=dict(start_time='2026-01-05T09:00:00+00:00', parameters=dict(run=str(run))), synkmimic=dict(origin='simulated', **meta)))
    (run/'notebooks').mkdir(exist_ok=True), (run/'state').mkdir(exist_ok=True)
    write_json(book, run/'notebooks'/f'{name}{suffix}.ipynb')
    if mark: (run/'state'/f'{name}.{mark}.done').write_text('75.0\n')

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run in which everything happened once: done, failed, stopped, stale, waiting."
    top = tmp_path_factory.mktemp('report')
    p = plan(profile='smoke', runs=top/'runs', scratch=top)
    prepare(p)
    key = keys(needed_by(dependencies(), read_json(p.folder/'run.json')['settings']), p.digest)
    leave(p.folder, 'a0_cohort', mark=key['a0_cohort'], peak_mb=812)
    leave(p.folder, 'a1_static_vae', [cell(stream(f'/opt/kim/x.py:3: UserWarning: {EVIL}\nepoch 1\n'))], mark=key['a1_static_vae'])
    leave(p.folder, 'a2_temporal_vae', [cell(count=1), cell(dict(output_type='error', ename='DataError', evalue=f'{EVIL}\nmore', traceback=[]), count=7)], '.failed')
    write_json(dict(cells=[], metadata={}), p.folder/'notebooks'/'.a3_latent_gan.running.ipynb')
    leave(p.folder, 't1_cohort', mark='old')
    for item in ('t2_fidelity', 'f4_acf'): leave(p.folder, item, mark=key[item])
    save_table(pd.DataFrame({'Metric': [EVIL, 'b'], 'n': ['<11', '12']}), p.figures, 't2_fidelity', f'A caption {EVIL}')
    save_table(pd.DataFrame({'Metric': ['of somebody else']}), p.figures, 't3_utility')
    Image.new('RGBA', (2400, 600), (0, 100, 200, 128)).save(p.figures/'f4_acf.png')
    (p.folder/'models'/'static_vae').mkdir(parents=True)
    pd.DataFrame(dict(epoch=[1, 2, 3], total=[3., 2., 1.5])).to_csv(p.folder/'models'/'static_vae'/'history.csv', index=False)
    return p.folder

@pytest.fixture(scope='module')
def page(run): return report.write_report(run).read_text(encoding='utf-8')

class Tree(HTMLParser):
    "Tags that open and close as they should, and what they load."
    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.bad = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.loads += [a[k] for k in ('src', 'data') if k in a] + ([a['href']] if tag == 'link' else [])
        self.ids.add(a.get('id'))
        if any(k.startswith('on') for k in a) or tag in ('script', 'iframe', 'object', 'form'): self.bad.append(tag)
        if tag not in ('meta', 'img', 'br'): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag, tag

def test_every_status_is_what_lies_in_the_folder(run):
    found = {s.name: s for s in report.stages_of(run)}
    assert {n: found[n].status for n in ('a0_cohort', 'a2_temporal_vae', 'a3_latent_gan', 't1_cohort', 't3_utility')} == dict(
        a0_cohort='done', a2_temporal_vae='failed', a3_latent_gan='stopped', t1_cohort='stale', t3_utility='waiting')
    assert (found['a0_cohort'].seconds, found['a0_cohort'].memory, found['a2_temporal_vae'].seconds) == (75., 812, None)
    assert [*found] == [*needed_by(dependencies(), read_json(run/'run.json')['settings'])]

def test_the_page_stands_alone(page):
    tree = Tree(page)
    assert tree.open == [] and tree.bad == [] and tree.loads and all(l.startswith('data:image/') for l in tree.loads)
    assert "default-src 'none'" in page and 'name="viewport"' in page and '<meta charset="utf-8">' in page
    assert set(re.findall(r'href="#([\w-]+)"', page)) <= tree.ids

def test_nothing_of_a_notebook_becomes_markup(page):
    assert '<script' not in page and page.count('&lt;script&gt;alert(&quot;환자&quot;)&lt;/script&gt;') >= 4, 'warning, error, cell and caption'
    assert '/opt/kim' not in page and 'x.py:3' in page

def test_the_first_line_of_an_error_and_no_more(page):
    assert 'cell 7: DataError' in page and 'more</p>' not in page

def test_small_counts_stay_hidden(page): assert '<td>&lt;11</td>' in page

def test_only_items_of_this_run(page):
    assert 'of somebody else' not in page and 'A caption' in page

def test_pictures_are_scaled_and_keep_their_shape(run):
    import base64, io
    src = report.picture(Path(read_json(run/'run.json')['figures'])/'f4_acf.png', 'x')
    with Image.open(io.BytesIO(base64.b64decode(src.split('base64,')[1][:-2]))) as image:
        assert image.size == (1200, 300) and image.convert('RGB').getpixel((5, 5)) == (127, 177, 227)

def test_the_release_and_its_lists(run):
    "What the check found and what was taken out, escaped, small numbers of stays hidden; the documents that exist, and no others."
    (run/'release'/'tables').mkdir(parents=True), (run/'dossier'/'public').mkdir(parents=True)
    (run/'release'/'tables'/'SHA256SUMS').write_text(''), (run/'dossier'/'public'/'00_summary.html').write_text('')
    pd.DataFrame(dict(part=['states'], variable=[EVIL], became=['not charted'], cells=[300], stays=[7], copy=[1])).to_csv(run/'release'/'floor.csv', index=False)
    pd.DataFrame(columns=['rule', 'file', 'column', 'count']).to_csv(run/'release'/'lint.csv', index=False)
    try: text = report.page_of(run)
    finally: shutil.rmtree(run/'release'), shutil.rmtree(run/'dossier')
    assert '<script' not in text and '<td>300</td><td>&lt;11</td>' in text and 'no rule is broken' in text
    assert 'href="dossier/public/00_summary.html"' in text and 'dossier/committee' not in text
    assert 'None yet' in report.release_part(run, [])

def test_the_same_run_gives_the_same_page(run, page): assert report.write_report(run).read_text(encoding='utf-8') == page

def test_a_later_failure_shows_over_an_older_success(run):
    mark = next((run/'state').glob('a1_static_vae.*.done'))
    old = mark.rename(mark.with_name('a1_static_vae.before.done'))
    leave(run, 'a1_static_vae', [cell(dict(output_type='error', ename='MemoryError', evalue='', traceback=[]))], '.failed')
    try: assert [(s.status, s.error) for s in report.stages_of(run) if s.name == 'a1_static_vae'] == [('failed', 'cell 1: MemoryError: ')]
    finally:
        (run/'notebooks'/'a1_static_vae.failed.ipynb').unlink()
        old.rename(mark)

def test_a_torn_notebook_does_not_stop_the_page(run):
    broken = run/'notebooks'/'a4_generate.failed.ipynb'
    broken.write_text('{"cells": [')
    try: assert [(s.status, s.error) for s in report.stages_of(run) if s.name == 'a4_generate'] == [('failed', '')]
    finally: broken.unlink()

def test_restricted_data_is_said(run):
    (run/'cohort'/'train').mkdir(parents=True)
    write_json(dict(source='kmimic', origin='restricted'), run/'cohort'/'train'/'schema.json')
    try: assert 'Made from restricted data' in report.summary_part(run, [])
    finally: (run/'cohort'/'train'/'schema.json').unlink()

def test_a_sweep_lists_its_runs_and_writes_theirs(run):
    sweep = run.with_name('sweep-x')
    (sweep/'state').mkdir(parents=True), (sweep/'notebooks').mkdir()
    write_json(read_json(run/'run.json') | dict(name='sweep', runs=[dict(folder=run.name, setting='default', seed=0)]), sweep/'run.json')
    (run/'report.html').unlink()
    text = report.write_report(sweep).read_text(encoding='utf-8')
    assert f'href="../{run.name}/report.html"' in text and (run/'report.html').exists() and '<h1>Sweep sweep</h1>' in text

def test_the_program(run, tmp_path):
    call = lambda *a: subprocess.run([sys.executable, '-m', 'synkmimic.report', *map(str, a)], cwd=ROOT, capture_output=True, text=True)
    wrong = call(tmp_path)
    assert wrong.returncode == 1 and 'not a run' in wrong.stderr and 'Traceback' not in wrong.stderr
    with pytest.raises(SynkError): report.write_report(tmp_path)
    assert not (tmp_path/'report.html').exists()
