"Every rule of release.lint refuses its planted violation, with rule and count and without values; a clean release passes."
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from synkmimic.core import DataError, SynkError
from synkmimic.release.cards import write_cards
from synkmimic.release.events import new_ids
from synkmimic.release.lint import LintConfig, LintError, clean_release, cohort_rule, config_of, json_cells, lint, person_floor, require_clean, training, window_rule
from synkmimic.release.tables import write_tables
from synkmimic.simulate import simulate_registry
from synkmimic.sources.extract import DataConfig
from synkmimic.sources.load import load_cohort

FACTS = dict(title='Example', version='1.0.0', summary='Synthetic stays.', authors=[dict(name='Nobody')], original=dict(name='Simulated'),
             generation=dict(method='none', synthesis='full'), changes=[dict(version='1.0.0', changes=['first'])])

@pytest.fixture(scope='module')
def house(tmp_path_factory):
    root = tmp_path_factory.mktemp('lint')
    simulate_registry(root/'raw', n_stays=350, seed=1)
    everyone, _ = load_cohort('simulated', root/'raw', cfg=DataConfig(hours=12, min_hours=6, features='core', min_people=50, threads=1))
    train, synth = everyone.split_by_subject(seed=0, fractions=(0.8, 0.2))
    write_tables(synth, root/'release', seed=4)
    return dict(root=root, train=train, synth=synth, t=training(train, root/'raw'))

@pytest.fixture
def release(house, tmp_path): return shutil.copytree(house['root']/'release', tmp_path/'release')

def put(release, table, column, rows, value):
    path = release/f'{table}.csv.gz'
    d = pd.read_csv(path, dtype=str)
    d.loc[:rows - 1, column] = value
    d.to_csv(path, index=False)

def findings(release, house, cfg=None, synth=None):
    return lint(release, house['t'], cfg, synth=house['synth'] if synth is None else synth)

def only(f, rule, column, count):
    assert f.rule.tolist() == [rule] and f.column.tolist() == [column] and f['count'].tolist() == [count], f.to_string()

def test_a_clean_release_passes(house, release):
    assert not len(findings(release, house))
    write_cards(release, FACTS)
    assert not len(findings(release, house)), 'its documents are clean as well'
    require_clean(release, house['t'], synth=house['synth'])

def test_a_clean_release_passes_when_it_is_read_back(house, release): assert not len(lint(release, house['t']))

@pytest.mark.parametrize('layout, form', [('kmimic', 'parquet'), ('mimiciv', 'csv.gz'), ('mimiciv', 'parquet'), ('meds', 'parquet')])
def test_other_layouts_pass(house, tmp_path, layout, form):
    write_tables(house['synth'], tmp_path/'r', layout, form, seed=5)
    f = findings(tmp_path/'r', house, config_of(layout))
    assert not len(f), f.to_string()

@pytest.mark.parametrize('name', ['subject_id', 'hadm_id', 'stay_id'])
def test_new_integer_ids_go_round_those_that_exist(name):
    from synkmimic.core import rng
    plain = new_ids(500, name, False, rng(2))
    taken = [*map(str, plain[::2]), 'a-text-id', '77'] # half of what the same draw would give
    new = new_ids(500, name, False, rng(2), taken)
    assert len(set(new)) == 500 and not {str(i) for i in new} & set(taken) and (new == np.sort(new)).all()
    assert (new_ids(500, name, False, rng(2), ['77']) == plain).all() # what is far away changes nothing

def test_a_release_avoids_the_integer_ids_of_the_training_people(house, tmp_path):
    first = write_tables(house['synth'], tmp_path/'a', 'mimiciv', 'parquet', seed=5).stays
    taken = {str(i) for c in ('subject_id', 'hadm_id', 'stay_id') for i in first[c]}
    again = write_tables(house['synth'], tmp_path/'b', 'mimiciv', 'parquet', seed=5, avoid=taken).stays
    assert not {str(i) for c in ('subject_id', 'hadm_id', 'stay_id') for i in again[c]} & taken

@pytest.mark.parametrize('layout', ['kmimic', 'mimiciv', 'meds'])
def test_the_person_floor_makes_a_release_that_passes(house, tmp_path, layout):
    train, synth = (house[k].take(np.arange(len(house[k]))) for k in ('train', 'synth'))
    level = synth.static.admission_type.dropna().iloc[0]
    k = np.flatnonzero(train.static.admission_type == level)
    train.static.loc[k[10:], 'admission_type'] = None # ten people at most are left with it
    j = next(j for j,f in enumerate(synth.schema.values) if f.agg == 'mean')
    train.values[5:, :, j] = np.nan # and five stays with this
    t = training(train, house['root']/'raw')
    write_tables(synth, tmp_path/'r', layout, seed=5)
    before = lint(tmp_path/'r', t, config_of(layout), synth=synth)
    n = int((synth.static.admission_type == level).sum())
    assert ('static record', 'admission_type', n) in before[['file', 'column', 'count']].itertuples(index=False, name=None)
    floored, changed = person_floor(synth, t, config_of(layout))
    write_tables(floored, tmp_path/'r', layout, seed=5)
    after = lint(tmp_path/'r', t, config_of(layout), synth=floored)
    assert not len(after), after.to_string()
    cells = changed.set_index('variable').cells
    assert cells['admission_type'] == n and cells[synth.schema.values[j].name] == synth.mask[..., j].sum()
    assert level not in changed.to_csv() and len(floored) == len(synth) and not cohort_rule(floored, t, config_of(layout))
    assert (floored.outcome == synth.outcome).all() and not len(person_floor(floored, t)[1])

def test_a_rare_code_and_a_rare_state_become_nothing(house):
    synth, train = (house[k].take(np.arange(len(house[k]))) for k in ('synth', 'train'))
    name = next(f.name for f in synth.schema.static if f.kind == 'flag' and synth.static[f.name].any())
    train.static[name] = 0
    state, level = synth.schema.states[0].name, int(synth.states[..., 0].max())
    train.states[..., 0] = np.where(train.states[..., 0] == level, -1, train.states[..., 0])
    floored, changed = person_floor(synth, train)
    assert dict(zip(changed.variable, changed.became)) | {name: 'no', state: 'not charted'} == dict(zip(changed.variable, changed.became))
    assert not floored.static[name].any() and synth.static[name].any() and not (floored.states[..., 0] == level).any()

@pytest.mark.parametrize('column, kind', [('subject_id', 'subject_id'), ('stay_id', 'stay_id'), ('value', 'subject_id')])
def test_training_id(house, release, column, kind):
    put(release, 'icu/chartevents', column, 4, getattr(house['train'], kind)[3])
    only(findings(release, house), 'training id', column, 4)

def test_training_admission_id_needs_the_registry(house, release):
    put(release, 'hosp/admissions', 'hadm_id', 1, pd.read_csv(house['root']/'raw'/'hosp'/'admissions.csv', dtype=str).hadm_id[0])
    only(findings(release, house), 'training id', 'hadm_id', 1)
    assert not len(lint(release, training(house['train']), synth=house['synth']))

def test_training_id_in_a_document(house, release):
    (release/'notes.md').write_text(f"as in stay {house['train'].stay_id[0]}, see above")
    only(findings(release, house), 'training id', '', 1)

def test_integer_ids_of_a_parquet_release(house, tmp_path):
    write_tables(house['synth'], tmp_path/'r', 'mimiciv', 'parquet', seed=5)
    path = tmp_path/'r'/'icu'/'icustays.parquet'
    taken = house['train'].take(np.arange(len(house['train'])))
    taken.stay_id[7] = str(pq.read_table(path)['stay_id'][0].as_py()) # drawn again by chance
    f = lint(tmp_path/'r', taken, LintConfig(calendar_start=2110), synth=house['synth'])
    assert set(f.rule) == {'training id'} and set(f.column) == {'stay_id'} and f['count'].min() >= 1

@pytest.mark.parametrize('hours, refused', [(6, True), (5, False)])
def test_training_window(house, hours, refused):
    stolen, c = house['synth'].take(np.arange(len(house['synth']))), house['train']
    i = int(np.argmax(c.mask[:, 2:2 + hours].sum((1, 2))))
    stolen.values[0, :] = 1.5 # what nobody has
    stolen.values[0, 1:1 + hours], stolen.length[0] = c.values[i, 2:2 + hours], 12
    w = window_rule(stolen, house['t'], LintConfig())
    assert (w[0]['count'] if w else 0) == int(refused) # one start holds it

def test_a_scale_that_people_share_by_chance_is_one_variable(house):
    from dataclasses import replace
    from synkmimic.release.lint import aligned, chance_variables
    from synkmimic.privacy.copies import charted_codes
    train, synth = (house[k].take(np.arange(len(house[k]))) for k in ('train', 'synth'))
    k = [train.schema.index('values', n) for n in ('egcs', 'vgcs', 'mgcs')]
    scale = np.array([4., 4, 3, 3, 4, 4])
    for c,rows in ((train, (0, 1, 2, 3, 4, 5)), (synth, (0,))): # six people share it, the release has it once
        for i in rows: c.values[i][:6, k], c.length[i] = scale[:, None], 12
    codes = charted_codes(*[aligned(train, train)[0]]*2)
    assert chance_variables(codes, train.subject_id, 6, 3)[k].all()
    assert window_rule(synth, replace(house['t'], cohort=train), LintConfig()) == []
    others = [j for j in range(len(train.schema.values)) if j not in k][:2]
    synth.values[0][:6, others] = train.values[0][:6, others] = np.arange(12).reshape(6, 2) + 7. # with two more it is a copy
    assert window_rule(synth, replace(house['t'], cohort=train), LintConfig())[0]['count'] == 1

def test_training_window_in_the_files(house, tmp_path):
    stolen, c = house['synth'].take(np.arange(len(house['synth']))), house['train']
    i = int(np.argmax(c.mask.sum((1, 2))))
    stolen.values[0], stolen.length[0] = c.values[i], c.length[i]
    write_tables(stolen, tmp_path/'r', seed=4)
    f = lint(tmp_path/'r', house['t']) # read back from what was written
    assert f.rule.tolist() == ['training window'] and f['count'][0] >= 1

def test_windows_need_something_to_compare(house, release):
    with pytest.raises(SynkError, match='cannot be checked'): findings(release, house, LintConfig(window_hours=13))

@pytest.mark.parametrize('table, column, value, n', [('hosp/admissions', 'admission_type', 'By helicopter', 2), ('icu/icustays', 'first_careunit', 'Burns', 3),
                                                     ('hosp/transfers', 'careunit', 'Burns', 3), ('hosp/admissions', 'nationality', 'Tuvalu', 1),
                                                     ('hosp/diagnoses_icd', 'icd_code', 'E70.3', 5)])
def test_rare_level(house, release, table, column, value, n):
    put(release, table, column, n, value)
    only(findings(release, house), 'rare level', column, n)

def test_a_level_of_ten_people_is_rare_and_one_of_eleven_is_not(house, release):
    from dataclasses import replace
    put(release, 'hosp/admissions', 'insurance', 2, 'Special')
    t = house['t']
    for people,rows in ((10, 1), (11, 0)):
        some = replace(t, people=t.people | dict(insurance={**t.people.get('insurance', {}), 'Special': people}))
        assert len(lint(release, some, synth=house['synth'])) == rows

def test_a_variable_few_training_people_have(house, release):
    bare = house['train'].take(np.arange(len(house['train'])))
    k = next(k for k,f in enumerate(bare.schema.values) if f.agg == 'mean')
    bare.values[11:, :, k] = np.nan
    f = lint(release, training(bare), synth=house['synth'])
    only(f[f.file == 'hourly values'], 'rare level', house['synth'].schema.values[k].name, int(house['synth'].mask[..., k].any(1).sum()))

def test_a_drug_that_few_training_people_got(house):
    from synkmimic.release.lint import ever_charted, variable_rule
    bare, synth = (house[k].take(np.arange(len(house[k]))) for k in ('train', 'synth'))
    k = next(k for k,f in enumerate(bare.schema.values) if f.agg == 'rate')
    name, given = bare.schema.values[k].name, ever_charted(synth)[bare.schema.values[k].name]
    bare.values[..., k] = 0. # charted throughout, but it never ran
    assert given.any() and [(r['column'], r['count']) for r in variable_rule(synth, training(bare), LintConfig())] == [(name, given.sum())]
    synth.values[..., k] = 0.
    assert not variable_rule(synth, training(bare), LintConfig())

@pytest.mark.parametrize('table, column, value', [('icu/chartevents', 'charttime', '2021-07-01 10:00:00'), ('hosp/patients', 'dod', '2022-01-01'),
                                                  ('hosp/admissions', 'dischtime', '01/07/2021'), ('hosp/patients', 'anchor_year', '2020'),
                                                  ('hosp/emar_detail', 'note_txt', '2021-07-01 5mcg')])
def test_real_date(house, release, table, column, value):
    put(release, table, column, 3, value)
    only(findings(release, house), 'real date', column, 3)

def test_training_period_inside_the_synthetic_calendar(house, release):
    f = findings(release, house, LintConfig(train_from='2000-01-01', train_until='3100-01-01'))
    assert set(f.rule) == {'real date'} and len(pd.read_csv(release/'icu'/'icustays.csv.gz')) in f['count'].tolist()

@pytest.mark.parametrize('table, column', [('hosp/emar_detail', 'note_txt'), ('icu/chartevents', 'value'), ('icu/d_items', 'label')])
def test_free_text(house, release, table, column):
    put(release, table, column, 2, '환자 상태 호전되어 보호자에게 설명한 뒤 일반 병실로 옮기고 경과를 지켜보기로 함 '*4)
    only(findings(release, house), 'free text', column, 2)

def test_a_column_of_many_short_texts_is_free_text(house, release):
    path = release/'icu'/'chartevents.csv.gz'
    d = pd.read_csv(path, dtype=str)
    d['valueuom'] = [f'{chr(44032 + k % 3000)}{chr(45000 + k % 700)}' for k in range(len(d))]
    d.to_csv(path, index=False)
    only(findings(release, house), 'free text', 'valueuom', len(d))

def test_small_cells_in_a_table(house, release):
    pd.DataFrame(dict(unit=list('abcd'), people=[1, 10, 11, 0], MICU=[30, 4, 50, 60], hour=[1, 2, 3, 4])).to_csv(release/'units.csv', index=False)
    f = findings(release, house)
    assert set(f.rule) == {'small cell'} and dict(zip(f.column, f['count'])) == dict(people=2, MICU=1)

def test_small_cells_in_a_dictionary(house, release):
    path = release/'icu'/'d_items.csv.gz'
    d = pd.read_csv(path, dtype=str)
    d['count'] = '500'
    d.loc[:2, 'count'] = '7'
    d.to_csv(path, index=False)
    only(findings(release, house), 'small cell', 'count', 3)

def test_small_cells_in_json(house, release):
    (release/'summary.json').write_text(json.dumps(dict(deaths=dict(MICU=3, SICU=40), limits=[1, 2])))
    only(findings(release, house), 'small cell', '', 1)
    assert json_cells(dict(counts=dict(PASS=2), share=0.5, n=4.5), 11) == 0

def test_a_dirty_release_never_appears_and_the_old_one_stands(house, tmp_path):
    place = tmp_path/'published'
    with clean_release(place, house['t'], synth=house['synth']) as tmp: write_tables(house['synth'], tmp, seed=4)
    kept = sorted(p.name for p in place.rglob('*'))
    with pytest.raises(LintError, match=r'small cell: 1 in units.csv \(people\)') as e:
        with clean_release(place, house['t'], synth=house['synth']) as tmp:
            write_tables(house['synth'], tmp, seed=4)
            put(tmp, 'icu/chartevents', 'subject_id', 2, house['train'].subject_id[0])
            pd.DataFrame(dict(unit=['MICU'], people=[3])).to_csv(tmp/'units.csv', index=False)
    assert sorted(p.name for p in place.rglob('*')) == kept and sorted(p.name for p in tmp_path.iterdir()) == ['published']
    assert set(e.value.findings.rule) == {'small cell', 'training id'}
    assert str(house['train'].subject_id[0]) not in str(e.value) and 'MICU' not in str(e.value), 'counts, never values'

def test_the_training_data_themselves_are_refused(house):
    raw = house['root']/'raw'
    f = lint(raw, house['t'], LintConfig(train_from='2500-01-01', train_until='3100-01-01'), source='simulated')
    assert {'training id', 'training window', 'real date', 'rare level'} <= set(f.rule)

def test_bad_input(tmp_path, house):
    with pytest.raises(DataError, match='no table'): lint(tmp_path, house['t'])
    with pytest.raises(DataError, match='no patients'): training(house['train'], tmp_path)
    with pytest.raises(SynkError, match='both'): LintConfig(train_until='2020-01-01')
