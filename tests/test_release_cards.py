"The documents of a release: what they say, what they never say, and what keeps a release from being complete."
import contextlib
import hashlib
import importlib.util
import json
import re

import pandas as pd
import pytest
import yaml

from synkmimic.core import DataError, SynkError
from synkmimic.release.cards import (DOCUMENTS, FLOOR, PLACEHOLDER, check_khdp, croissant, file_list, khdp_faults, khdp_submission, name_faults, open_points,
                                     read_tables, require_complete, write_cards)
from synkmimic.simulate import simulate_registry

FACTS = dict(
    title='Example ICU', title_ko='예시 중환자실', version='1.2.0', date='2026-03-01', url='https://example.org/data',
    summary=dict(en='Synthetic stays.', ko='합성 재실 자료.'), authors=[dict(family='Kim', given='A', affiliation='H')],
    original=dict(name='Simulated registry', version='1.0', owner='nobody'), purpose=dict(purpose='Teaching', users='Students', tier='open'),
    generation=dict(method='Latent GAN', synthesis='full'), synthetic=dict(people=57, stays=60, deaths=6),
    results=[dict(name='AUROC', value=0.8123, low=0.78, high=0.84, n=1200), dict(name='Rare unit', value=0.4321, n=7), dict(name='Not run', value=None, note='no power')],
    limitations=[dict(en='Thirty hours only.', ko='30시간만 있다.')], biases=['Few children'], artefacts=['Too smooth'], plan=dict(contact='data@example.org', reverify_months=12),
    terms=dict(licence='CC-BY-4.0'), khdp=dict(code='EXAMPLE', accessPolicy='open', lId=3), preprocessing=dict(log=['ages in years']),
    changes=[dict(version='1.0.0', date='2026-01-01', changes=['First']), dict(version='1.2.0', date='2026-03-01', changes=['More stays'])],
    tables={'icu/icustays': dict(units=dict(los='d'), columns=dict(los='Length of stay'))})

@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp('cards')/'release'
    simulate_registry(root, n_stays=60, seed=3)
    (root/'truth.json').unlink()
    return root

@pytest.fixture
def release(raw, tmp_path):
    import shutil
    return shutil.copytree(raw, tmp_path/'release')

def read(release, name): return (release/name).read_text(encoding='utf-8')

def test_all_documents_are_written_and_a_decided_release_is_complete(release):
    assert write_cards(release, FACTS) == []
    assert all((release/d).is_file() for d in DOCUMENTS)
    require_complete(release)

def test_a_second_writing_gives_the_same_bytes(release):
    write_cards(release, FACTS)
    first = read(release, 'SHA256SUMS')
    write_cards(release, FACTS)
    assert read(release, 'SHA256SUMS') == first and not [p for p in release.iterdir() if p.name.startswith('.')]

def test_hashes_are_those_of_the_files(release):
    write_cards(release, FACTS)
    lines = [l.split('  ', 1) for l in read(release, 'SHA256SUMS').splitlines()]
    assert {p for _,p in lines} == {f['path'] for f in file_list(release)} and 'SHA256SUMS' not in {p for _,p in lines}
    assert all(hashlib.sha256((release/p).read_bytes()).hexdigest() == h for h,p in lines)

@pytest.mark.parametrize('licence', ['', None])
def test_a_placeholder_licence_keeps_the_release_back(release, licence):
    left = write_cards(release, FACTS | dict(terms=dict(licence=licence)))
    assert len(left) == 1 and 'LICENSE is a placeholder' in left[0] and PLACEHOLDER in read(release, 'LICENSE')
    assert 'license' not in yaml.safe_load(read(release, 'CITATION.cff')) and 'license' not in json.loads(read(release, 'croissant.json'))
    with pytest.raises(SynkError, match='not complete, 1 points'): require_complete(release)

def test_changed_missing_and_new_files_are_noticed(release):
    write_cards(release, FACTS)
    with open(release/'hosp'/'patients.csv', 'a') as f: f.write('\n')
    (release/'new.csv').write_text('a\n1\n')
    (release/'icu'/'d_items.csv').unlink()
    assert '3 files changed' in open_points(release)[0]
    (release/'datasheet.md').unlink()
    assert open_points(release) == ['datasheet.md is missing']

def test_small_counts_are_not_printed_anywhere(release):
    write_cards(release, FACTS)
    text = {d: read(release, d) for d in DOCUMENTS if d != 'SHA256SUMS'}
    assert f'fewer than {FLOOR}' in text['datasheet.md'] and '| 57 |' in text['datasheet.md']
    assert not re.search(r'사망 \| 6 \|', text['datasheet.md']) and not any('0.432' in t for t in text.values())
    assert '0.812 [0.78, 0.84] (n = 1,200)' in text['README.md'] and 'not evaluated: no power' in text['README.md']

def test_both_languages_and_no_certificate(release):
    write_cards(release, FACTS)
    for d in ('datasheet.md', 'README.md', 'khdp_submission.json'):
        t = read(release, d)
        assert '심의위원회' in t and 'subject to committee determination' in t and 'clinical decisions' in t
        assert not re.search(r'certif|guarantee|is anonymous|complies with|fully anonym|익명정보이다', t, re.I), d

def test_datasheet_has_its_sections(release):
    write_cards(release, FACTS)
    heads = re.findall(r'^## (.+?) /', read(release, 'datasheet.md'), re.M)
    assert [h.split('. ')[-1] for h in heads] == ['Motivation', 'Composition', 'Collection', 'Preprocessing', 'Uses', 'Distribution', 'Maintenance', 'Synthetic data specifics']

def test_header_of_the_card(release):
    write_cards(release, FACTS)
    h = yaml.safe_load(read(release, 'README.md').split('---\n')[1])
    assert h['license'] == 'cc-by-4.0' and h['language'] == ['en', 'ko'] and h['size_categories'] == ['10K<n<100K']
    assert all((release/f).is_file() for c in h['configs'] for f in c['data_files'])

def test_the_lines_of_the_card_run(release):
    write_cards(release, FACTS)
    space = {}
    with contextlib.chdir(release): exec(re.search(r'```python\n(.*?)```', read(release, 'README.md'), re.S)[1], space)
    assert (len(space['stays']), space['n']) == (60, 60)

def test_citation(release):
    write_cards(release, FACTS)
    c = yaml.safe_load(read(release, 'CITATION.cff'))
    assert (c['cff-version'], c['type'], c['version'], c['license'], c['authors'][0]['family-names']) == ('1.2.0', 'dataset', '1.2.0', 'CC-BY-4.0', 'Kim')

def test_changes_newest_first(release):
    write_cards(release, FACTS)
    assert re.findall(r'^## (\S+)', read(release, 'CHANGELOG.md'), re.M) == ['1.2.0', '1.0.0']
    with pytest.raises(SynkError, match='no entry for version 1.3.0'): write_cards(release, FACTS | dict(version='1.3.0'))

def judged(path):
    mlcroissant = pytest.importorskip('mlcroissant', reason='the validator of Croissant (development only)')
    return mlcroissant.Dataset(str(path))

def test_croissant_passes_its_validator(release):
    write_cards(release, FACTS)
    d = judged(release/'croissant.json')
    assert not d.metadata.ctx.issues.errors and not d.metadata.ctx.issues.warnings
    assert len(d.metadata.record_sets) == 15 and d.metadata.data_limitations == ['Thirty hours only.'] and d.metadata.data_biases == ['Few children']

def test_records_can_be_read_through_croissant(release):
    write_cards(release, FACTS)
    rows = list(judged(release/'croissant.json').records('hosp/procedures_icd')) # a csv.gz
    assert len(rows) == len(pd.read_csv(release/'hosp'/'procedures_icd.csv.gz'))

@pytest.mark.skipif(importlib.util.find_spec('mlcroissant') is None, reason='development only')
@pytest.mark.parametrize('spoil', [lambda c: c['distribution'][0].pop('sha256'), lambda c: c['distribution'][0].pop('contentUrl'), lambda c: c['recordSet'][0]['field'][0]['source'].update(fileObject={'@id': 'nowhere'})])
def test_the_validator_would_notice(release, tmp_path, spoil):
    import mlcroissant
    c = croissant(FACTS, read_tables(release), file_list(release))
    spoil(c)
    (tmp_path/'c.json').write_text(json.dumps(c))
    with pytest.raises(mlcroissant.ValidationError): mlcroissant.Dataset(str(tmp_path/'c.json'))

def test_croissant_names_the_responsible_properties_of_the_vocabulary(release):
    known = set('''dataCollection dataCollectionType dataCollectionMissingData dataCollectionRawData dataCollectionTimeframe dataPreprocessingProtocol
        dataImputationProtocol dataManipulationProtocol dataReleaseMaintenancePlan personalSensitiveInformation dataSocialImpact dataBiases dataLimitations
        dataUseCases'''.split())
    c = croissant(FACTS, read_tables(release), file_list(release))
    assert {k[4:] for k in c if k.startswith('rai:')} <= known and 'http://mlcommons.org/croissant/RAI/1.0' in c['conformsTo']
    los = next(f for r in c['recordSet'] for f in r['field'] if f['@id'] == 'icu/icustays/los')
    assert los['unitText'] == 'd' and los['description'] == 'Length of stay' and los['dataType'] == 'sc:Float'

GOOD = dict(title='T', code='A_1', version='1.0.0', summary='s', accessPolicy='open', lId=1, details=[dict(name='Abstract', content='<p>x</p>')])

@pytest.mark.parametrize('key, value, said', [('title', '', 'title'), ('title', 'x'*201, '201'), ('code', 'a b', 'code'), ('code', 'a/b', 'code'), ('code', None, 'code'),
    ('version', '1.0', 'version'), ('summary', '', 'summary'), ('summary', 'x'*501, '501'), ('accessPolicy', 'public', 'accessPolicy'), ('accessPolicy', None, 'accessPolicy'),
    ('lId', None, 'lId'), ('details', [], 'details'), ('details', [dict(name='Abstract')], '1 of 1')])
def test_khdp_rules(key, value, said):
    assert khdp_faults(GOOD) == [] and check_khdp(GOOD) is GOOD
    faults = khdp_faults(GOOD | {key: value})
    assert len(faults) == 1 and said in faults[0]
    with pytest.raises(SynkError, match='1 faults'): check_khdp(GOOD | {key: value})

def test_khdp_names():
    assert name_faults(['hosp/patients.csv.gz', 'copy_01/icu/d_items.csv', 'README.md', 'SHA256SUMS']) == []
    assert len(name_faults(['.hidden', 'a b.csv', 'my folder/x.csv', '한글.csv'])) == 4

def test_khdp_details_escape_html(release):
    s = khdp_submission(FACTS | dict(summary='a <b> & c'), read_tables(release))
    assert '&lt;b&gt;' in s['details'][0]['content'] and [d['name'] for d in s['details']][:4] == ['Abstract', 'Background', 'Methods', 'Data Description']

@pytest.mark.parametrize('change, said', [(dict(title=''), "'title'"), (dict(authors=[]), "'authors'"), (dict(version='1'), 'three numbers'), (dict(date='March'), 'date'),
                                          (dict(authors=[dict(orcid='x')]), 'without a name'), (dict(terms=dict(licence='MIT-ish')), 'licence')])
def test_bad_facts(release, change, said):
    with pytest.raises(SynkError, match=said): write_cards(release, FACTS | change)
    assert not (release/'README.md').exists(), 'nothing is written'

def test_no_tables(tmp_path):
    with pytest.raises(DataError, match='no table'): write_cards(tmp_path, FACTS)
    with pytest.raises(DataError, match='does not exist'): file_list(tmp_path/'x')

def test_an_own_licence(release):
    own = dict(name='House terms', text='Ask first.')
    assert write_cards(release, FACTS | dict(terms=dict(licence=own))) == []
    assert 'Ask first.' in read(release, 'LICENSE') and yaml.safe_load(read(release, 'README.md').split('---\n')[1])['license_name'] == 'House terms'

def test_minimal_facts_say_what_is_missing(release):
    left = write_cards(release, {k: FACTS[k] for k in ('title', 'version', 'summary', 'authors', 'original', 'generation', 'changes')})
    assert [x.split(':')[0] for x in left] == ['LICENSE is a placeholder'] + ['khdp_submission.json']*3 + ['CITATION.cff', 'README.md', 'README.md']
    assert read(release, 'datasheet.md').count('not stated') > 5 and 'None' not in read(release, 'datasheet.md')

# --- several copies, and what the card says about them

@pytest.fixture(scope='module')
def several(tmp_path_factory):
    from synkmimic.release.check import write_release_check
    from synkmimic.release.tables import write_tables
    from synkmimic.toy import toy_cohort
    root = tmp_path_factory.mktemp('copies')/'release'
    for k in (1, 2): write_tables(toy_cohort(30 + k, seed=k), root/f'copy_{k}', 'kmimic', 'parquet', seed=k)
    write_release_check(root)
    left = write_cards(root, FACTS | dict(generation=FACTS['generation'] | dict(copies='2, plug-in rule', size_ratio=0.5)))
    return root, left

def test_copies_are_one_release_with_one_set_of_cards(several):
    from synkmimic.release.check import check_release
    root, left = several
    assert left == [] and sorted(p.name for p in root.iterdir() if p.is_dir()) == ['copy_1', 'copy_2']
    assert not len(check_release(root)), check_release(root).to_string()
    card, c = read(root, 'README.md'), json.loads(read(root, 'croissant.json'))
    assert 'Rows in each of 2 copies' in card and '| `icu/icustays` | 31 to 32 |' in card and '2, plug-in rule' in card
    assert {r['@id'].split('/')[0] for r in c['recordSet']} == {'copy_1', 'copy_2'}
    fields = {f['@id']: f for r in c['recordSet'] for f in r['field']}
    assert fields['copy_2/icu/chartevents/stay_id']['references'] == {'field': {'@id': 'copy_2/icu/icustays/stay_id'}}
    assert fields['copy_1/icu/icustays/los']['unitText'] == 'd' and fields['copy_1/icu/icustays/los']['description'] == 'Length of stay'

def test_the_snippet_of_the_card_gives_what_release_combine_gives(several):
    from synkmimic.release.combine import combine_copies
    root, _ = several
    def analyse(folder):
        los = pd.read_parquet(folder/'icu'/'icustays.parquet').los
        return dict(los=los.mean()), dict(los=los.var()/len(los))
    lines = [b for b in re.findall(r'```python\n(.*?)```', read(root, 'README.md'), re.S) if 'analyse' in b]
    space = dict(analyse=lambda f: tuple(v['los'] for v in analyse(root/f)))
    exec(lines[0], space)
    want = combine_copies([root/'copy_1', root/'copy_2'], analyse, rule='plugin', size_ratio=0.5).iloc[0]
    assert space['estimate'] == pytest.approx(want.estimate) and space['variance']**0.5 == pytest.approx(want.se)
    assert (space['low'], space['high']) == pytest.approx((want.low, want.high), rel=1e-3)

@pytest.mark.parametrize('layout, form', [('kmimic', 'csv.gz'), ('mimiciv', 'parquet'), ('meds', 'parquet')])
def test_the_lines_of_the_card_run_in_every_layout(tmp_path, layout, form):
    from synkmimic.release.tables import write_tables
    from synkmimic.toy import toy_cohort
    release = tmp_path/'r'
    written = write_tables(toy_cohort(25, seed=1), release, layout, form)
    write_cards(release, FACTS)
    lines, space = re.search(r'```python\n(.*?)```', read(release, 'README.md'), re.S)[1], {}
    with contextlib.chdir(release): exec(lines, space)
    rows = written.rows['data'] if layout == 'meds' else 25
    assert (len(space['stays']), space['n']) == (rows, rows)

def test_a_folder_with_cards_is_whole_for_a_stranger_and_a_changed_card_is_seen(several, tmp_path):
    import shutil, subprocess, sys
    root = shutil.copytree(several[0], tmp_path/'r')
    run = lambda: subprocess.run([sys.executable, '-I', str(root/'release_check.py')], capture_output=True, text=True)
    assert run().returncode == 0, run().stdout
    with open(root/'README.md', 'a') as f: f.write('better than real\n')
    (root/'copy_2'/'icu'/'icustays.parquet').unlink()
    said = run()
    assert said.returncode == 1 and 'hash       README.md' in said.stdout and 'copy_2/icu/icustays' in said.stdout and 'copy_1' not in said.stdout

def test_what_only_people_know_is_open_until_they_say_it(release):
    from synkmimic.release.cards import TO_FILL
    nobody = {k: v for k,v in FACTS.items() if k not in ('date', 'purpose', 'plan')} | dict(authors=[dict(name=TO_FILL)])
    left = write_cards(release, nobody)
    assert sorted(re.search(r'facts: (\S+)\)', l)[1] for l in left) == ['authors', 'date', 'plan.contact', 'purpose.purpose'] and len(left) == 4

def test_a_number_for_the_committee_is_not_on_the_card(release):
    results = [dict(name=dict(ko='공격', en='Attack'), value=None, withheld=True, status='FAIL', n=500), dict(name='Free', value=0.7071, status='PASS', n=500)]
    write_cards(release, FACTS | dict(results=results))
    card = read(release, 'README.md')
    assert '| 공격 / Attack | number for the committee only; rule not met' in card and '0.707 (n = 500); rule met' in card

def test_the_facts_of_a_run_make_cards_without_a_word_from_people(tmp_path):
    from synkmimic.release.dossier import build_dossier
    from synkmimic.release.facts import card_facts, collect_facts
    from synkmimic.release.tables import write_tables
    from synkmimic.toy import toy_cohort
    train, holdout = toy_cohort(120, seed=0).split_by_subject(seed=0)
    synth = toy_cohort(60, seed=4)
    facts = collect_facts(train, holdout, synth, dict(name='t', seed=0), dict(method='m', synthesis='full', runs=1), 'gan')
    scores = pd.DataFrame([('gan', 'fidelity', 'ks', 'hr', '', 0.31, 0.3, 0.32, 60, 'lower', '')], columns=['arm', 'pillar', 'metric', 'feature', 'group', 'value', 'low', 'high', 'n', 'direction', 'note'])
    write_tables(synth, tmp_path/'r', 'kmimic', 'csv.gz')
    left = write_cards(tmp_path/'r', card_facts(facts, build_dossier(scores, None, facts, 'public'), scores, synth))
    card = read(tmp_path/'r', 'README.md')
    assert len(left) >= 5 and 'Distributions that differ (KS distance): hr 0.31' in card and '0.31 [0.3, 0.32] (n = 60); for people to judge' in card
