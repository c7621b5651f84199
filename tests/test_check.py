"The look before the work: it must see what is there, agree with the extraction that follows, and show no small count."
import gzip
import re
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_codes import ward
from test_sources import CHALLENGE, DATA, DEMO, KEPT, NE, challenge, demo, one

from synkmimic.cli import main
from synkmimic.cohort import Cohort
from synkmimic.core import ConfigError, DataError
from synkmimic.simulate import simulate_registry
from synkmimic.sources.check import WANTED, check_data, header, layout_of
from synkmimic.sources.extract import DataConfig
from synkmimic.sources.files import Tables
from synkmimic.sources.load import load_cohort

MEDS = DATA/'mimic-iv-demo-meds-0.0.1'
meds = pytest.mark.skipif(not MEDS.is_dir(), reason=f'{MEDS.name} is not beside the project')

@pytest.fixture(scope='module')
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp('simulated')/'registry'
    simulate_registry(root, n_stays=150, seed=5)
    return root

def own(root, n=60, length=False):
    root.mkdir(parents=True, exist_ok=True)
    end = lambda i: f',{20 + i % 5}' if length else ''
    (root/'stays.csv').write_text(f'stay_id,subject_id,outcome,age{",length_hours"*length}\n' + ''.join(f'{i},{i//2},{i % 5 == 0:d},{40 + i % 40}{end(i)}\n' for i in range(n)))
    (root/'events.csv').write_text('stay_id,hour,variable,value\n' + ''.join(f'{i},{h},{v},{70 + h}\n' for i in range(n) for h in range(20) for v in ('hr', 'sbp')))
    return root

# ---- which layout ---------------------------------------------------------------------------------------------------
def test_layouts_are_recognised(tmp_path, registry):
    assert layout_of(registry) == 'simulated' and layout_of(own(tmp_path/'own')) == 'tables'
    plain = one().write(tmp_path/'kmimic')
    assert layout_of(plain) == 'kmimic'
    path = plain/'hosp'/'patients.csv'
    path.write_text(path.read_text().replace(',sex,', ',gender,'))
    assert layout_of(plain) == 'mimiciv'
    pd.read_csv(path).to_parquet(path.with_suffix('.parquet'))
    path.unlink()
    assert layout_of(plain) == 'mimiciv' and layout_of(tmp_path) == ''
    (tmp_path/'meds'/'data'/'train').mkdir(parents=True)
    (tmp_path/'meds'/'data'/'train'/'0.parquet').write_bytes(b'')
    (tmp_path/'c'/'set-a').mkdir(parents=True)
    assert layout_of(tmp_path/'meds') == 'meds' and layout_of(tmp_path/'c') == 'challenge2012'

def test_a_folder_too_high_and_a_wrong_source_are_named(tmp_path):
    one().write(tmp_path/'export')
    with pytest.raises(DataError, match='Did you mean export/ inside'): check_data(tmp_path)
    with pytest.raises(DataError, match='does not exist'): check_data(tmp_path/'none')
    with pytest.raises(ConfigError, match="Did you mean 'mimiciv'"): check_data(tmp_path/'export', source='mimic-iv')
    assert not check_data(tmp_path/'export', DataConfig(min_people=1), source='mimiciv').ok # `sex` where `gender` should be

def test_headers_of_every_format(tmp_path):
    text = '\ufeffstay_id,"my, column",값\n1,2,3\n'
    (tmp_path/'a.csv').write_text(text, encoding='utf-8')
    (tmp_path/'b.csv.gz').write_bytes(gzip.compress(text[1:].encode('cp949')))
    pd.DataFrame(dict(stay_id=[1, 2])).to_parquet(tmp_path/'c.parquet')
    assert header(tmp_path/'a.csv') == header(tmp_path/'b.csv.gz') == (['stay_id', 'my, column', '값'], None)
    assert header(tmp_path/'c.parquet') == (['stay_id'], 2)

# ---- the list of tables is what the readers ask for -----------------------------------------------------------------
@pytest.mark.parametrize('source', ['kmimic', pytest.param('mimiciv', marks=demo)])
def test_the_list_of_tables_is_what_the_readers_ask_for(tmp_path, monkeypatch, source):
    asked, scan = {}, Tables.scan
    def watched(self, table, columns, optional=()):
        need, may = asked.setdefault(table, (set(), set()))
        need.update(columns); may.update(optional)
        return scan(self, table, columns, optional)
    monkeypatch.setattr(Tables, 'scan', watched)
    r = one().drug(NE, '10:00', 'start', '6 mcg/min')
    load_cohort(source, DEMO if source == 'mimiciv' else r.write(tmp_path/'r'), cfg=DataConfig(min_people=1))
    for table,(need,may) in asked.items():
        listed, _, optional = (set(p.split()) for p in WANTED[source][table].partition('?'))
        assert listed == need and optional - {'?'} == may - need, table
    assert set(WANTED[source]) - set(asked) == ({'hosp/d_labitems', 'icu/d_items'} if source == 'mimiciv' else set())

# ---- it agrees with the extraction ----------------------------------------------------------------------------------
def agrees(c, cohort, report, table='icu/icustays'):
    "What the check announced is what came out."
    stays = report.dropped(table)
    for reason,n in c.stays.items(): assert n in ('<11', '≥11') or int(n.replace(',', '')) == stays.get(reason, 0), reason
    assert set(stays) == {k for k,n in c.stays.items() if n != '0'} | ({KEPT} if KEPT in stays else set())
    columns = [f.name for f in cohort.schema.static if f.kind != 'flag' and f.name != 'height']
    assert c.plan['static'].split(';')[0].split(', ') == columns
    groups = pd.Series([f.group for f in cohort.schema.static]).value_counts()
    assert c.plan['codes'].startswith(f"{groups.get('diagnosis', 0)} diagnosis and {groups.get('procedure', 0)} procedure")
    at_most = [int(w) for w in re.findall(r'\d+', c.plan['hourly'])][:3]
    assert all(len(getattr(cohort.schema, p)) <= n for p,n in zip(('values', 'flags', 'states'), at_most))

def no_small_count(text):
    text = re.sub(r'of at least \d+ people', '', text)
    assert not re.search(r'\b([1-9]|10)\s+(people|stays|kept|read|survived|icu_death|hospital_death|death)\b', text), text
    block = re.search(r'\nstays\n((?:  .*\n)+)', text)
    assert not block or not re.search(r'^  ([1-9]|10) ', block[1], re.M), text

@pytest.mark.parametrize('options', [{}, dict(nationality='two_levels', code_group='chapter', hours=0, cap_hours=72)])
def test_a_simulated_registry(registry, options):
    cfg = DataConfig(**options)
    c = check_data(registry, cfg)
    assert c.ok and str(c).splitlines()[-1] == 'ok' and not c.ignored
    agrees(c, *load_cohort('simulated', registry, cfg=cfg))
    no_small_count(str(c))
    rows = pq.ParquetFile(registry/'icu'/'chartevents.parquet').metadata.num_rows
    assert c.tables.set_index('table').rows['icu/chartevents'] == f'{rows:,}'
    assert (c.concepts.found == c.concepts.of).all()

@demo
def test_the_demo():
    c = check_data(DEMO)
    assert c.ok and c.source == 'mimiciv' and 'hosp/poe.csv.gz' in c.ignored and 'icu/chartevents.csv.gz' not in c.ignored
    agrees(c, *load_cohort('mimiciv', DEMO))
    no_small_count(str(c))

@meds
def test_meds_agrees_with_the_tables_of_the_same_people():
    c = check_data(MEDS)
    assert c.ok and c.source == 'meds'
    agrees(c, *load_cohort('meds', MEDS), 'data/stays')
    no_small_count(str(c))
    if DEMO.is_dir():
        other = check_data(DEMO)
        assert (c.stays, c.outcomes, c.plan['static'], c.plan['codes']) == (other.stays, other.outcomes, other.plan['static'], other.plan['codes'])

@challenge
def test_challenge_2012(tmp_path):
    (tmp_path/'set-a.tar.xz').symlink_to(CHALLENGE/'set-a.tar.xz')
    (tmp_path/'readme.txt').write_text('x')
    c = check_data(tmp_path)
    assert c.ok and c.plan['stays'].startswith('4,000 read') and c.concepts.found.sum() == 37 and c.ignored == ('readme.txt',)
    no_small_count(str(c))
    with pytest.raises(ConfigError, match='48'): load_cohort('challenge2012', tmp_path, cfg=DataConfig(hours=72))
    assert any('48' in p for p in check_data(tmp_path, DataConfig(hours=72)).problems)

@pytest.mark.parametrize('length', [False, True])
def test_tables_of_ones_own(tmp_path, length):
    root = own(tmp_path/'own', length=length)
    c = check_data(root)
    assert c.ok and c.source == 'tables' and c.plan['static'] == 'age' and '2 variables' in c.plan['hourly']
    cohort, report = load_cohort('tables', root)
    assert c.stays[KEPT] == str(report.dropped('stays')[KEPT]) == str(len(cohort))
    (root/'events.csv').write_text('stay_id,hour,variable\n')
    assert any('column value is missing' in p for p in check_data(root).problems)

# ---- problems -------------------------------------------------------------------------------------------------------
def spoilt(registry, tmp_path, change):
    root = tmp_path/'registry'
    shutil.copytree(registry, root)
    change(root)
    return check_data(root, DataConfig())

@pytest.mark.parametrize('change,problem,counted', [
    (lambda r: (r/'hosp'/'emar.parquet').unlink(), 'hosp/emar is missing .data.skip_missing_tables', True),
    (lambda r: (r/'icu'/'icustays.csv').unlink(), 'icu/icustays is missing$', False),
    (lambda r: (r/'hosp'/'patients.csv').write_bytes(b''), 'hosp/patients: the file is empty', False),
    (lambda r: shutil.copy(r/'hosp'/'admissions.csv', r/'hosp'/'admissions.parquet'), 'hosp/admissions exists twice', False),
    (lambda r: (r/'icu'/'chartevents.parquet').write_bytes(b'nothing of the kind'), 'icu/chartevents: not valid Parquet', True),
    (lambda r: (r/'icu'/'outputevents.csv.gz').write_bytes(b'no gzip'), 'icu/outputevents: the file cannot be read', True),
    (lambda r: (r/'icu'/'d_items.csv').write_text('itemid,name\n'), 'icu/d_items: column label is missing', False),
])
def test_problems_are_named_and_end_with_a_status(registry, tmp_path, change, problem, counted):
    c = spoilt(registry, tmp_path, change)
    assert c.status == 1 and any(re.search(problem, p) for p in c.problems), c.problems
    assert len(c.problems) == 1 and str(c).splitlines()[-1] == f'problem: {c.problems[0]}'
    assert bool(c.stays) == counted

def test_other_labels_are_seen_before_any_long_work(registry, tmp_path):
    def change(r):
        f = pd.read_csv(r/'hosp'/'d_labitems.csv', dtype=str)
        f.assign(label=f.label.where(~f.label.str.contains('Lactate', case=False), '젖산')).to_csv(r/'hosp'/'d_labitems.csv', index=False)
    c = spoilt(registry, tmp_path, change)
    lab = c.concepts.set_index('group').loc['lab']
    assert c.ok and lab.found == lab.of - 1 and lab.missing == 'lact' and 'not here: lact' in str(c)

def test_skipped_tables_are_no_problem(registry, tmp_path):
    shutil.copytree(registry, tmp_path/'r')
    for f in ('emar_detail.csv.gz', 'diagnoses_icd.csv'): (tmp_path/'r'/'hosp'/f).unlink()
    cfg = DataConfig(skip_missing_tables=True)
    c = check_data(tmp_path/'r', cfg)
    cohort, report = load_cohort('simulated', tmp_path/'r', cfg=cfg)
    assert c.ok and c.concepts.set_index('group').found['infusion'] == 0 and c.plan['codes'].startswith('0 diagnosis')
    agrees(c, cohort, report)

def test_a_filter_that_nobody_passes_shows_no_small_count(tmp_path):
    c = check_data(ward().write(tmp_path/'r'), DataConfig(age_low=80, age_high=81))
    assert c.problems == ['no stay passes the filters. Loosen data.age_*, data.los_* or data.min_hours.']
    assert c.stays == {KEPT: '0', 'age outside the range': '15'}

def test_the_screen_hides_few_people_and_says_what_would_happen(tmp_path):
    root = ward().write(tmp_path/'r')
    text = str(check_data(root, DataConfig(min_people=2)))
    assert re.search(r'psychiatric disease +12 people, 12 stays, 12 rows of 1 codes', text) and re.search('HIV and AIDS +<11 people', text)
    assert re.search('rare diseases .* not looked for', text) and 'only listed' in text and re.search('foreign nationality +<11 people', text)
    no_small_count(text)
    strict = check_data(root, DataConfig(min_people=2, withhold_sensitive=True))
    assert 'exception: withheld' in str(strict) and strict.plan['codes'].startswith('1 diagnosis')
    assert any('none.toml' in p for p in check_data(root, DataConfig(sensitive_codes=str(tmp_path/'none.toml'))).problems)

# ---- the command ----------------------------------------------------------------------------------------------------
def test_the_command(registry, tmp_path, capsys):
    assert main(['data', 'check', str(registry)]) == 0 and capsys.readouterr().out.endswith('\nok\n')
    assert main(['data', 'extract', str(registry), str(tmp_path/'out'), 'data.hours=24', '--source', 'kmimic', 'data.features=core']) == 0
    c = Cohort.load(tmp_path/'out')
    assert c.n_hours == 24 and c.schema.origin == 'restricted' and (tmp_path/'out'/'extraction.csv').stat().st_size > 100
    capsys.readouterr()
    assert main(['data', 'extract', str(registry), str(tmp_path)]) == 2
    assert capsys.readouterr().err.count('\n') == 1
    assert main(['data', 'check', str(registry), 'data.sourc=x']) == 2 and "Did you mean 'source'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as e: main(['data', 'check', str(registry), '--hurry'])
    assert e.value.code == 2

def test_an_extraction_that_fails_leaves_the_old_cohort(registry, tmp_path, capsys):
    out = tmp_path/'out'
    assert main(['data', 'extract', str(registry), str(out), 'data.features=core']) == 0
    before = Cohort.load(out).fingerprint()
    assert main(['data', 'extract', str(registry), str(out), 'data.age_low=99.5']) == 2
    assert Cohort.load(out).fingerprint() == before and [p.name for p in tmp_path.iterdir()] == ['out']

def test_the_installed_script_and_the_module_say_the_same(tmp_path):
    run = lambda *a: subprocess.run([sys.executable, '-m', 'synkmimic.cli', *a], capture_output=True, text=True)
    done = run('data', 'check', str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith('synkmimic: no known layout') and 'Traceback' not in done.stderr
    assert run('paper', '--help').returncode == 0 and 'run one notebook' in run('paper', '--help').stdout
