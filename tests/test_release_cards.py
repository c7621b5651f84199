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
    assert [x.split(':')[0] for x in left] == ['LICENSE is a placeholder'] + ['khdp_submission.json']*3
    assert read(release, 'datasheet.md').count('not stated') > 5 and 'None' not in read(release, 'datasheet.md')
