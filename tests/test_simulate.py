"The simulated registry: layout, determinism, planted dirt, calendar, outcomes."
import re

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from synkmimic.core import ConfigError, digest, read_json
from synkmimic.simulate import LAYOUT, SimulateConfig, population, simulate_registry, simulation_facts

COLUMNS = {
    'hosp/patients': 'subject_id sex anchor_age anchor_year dod',
    'hosp/admissions': 'subject_id hadm_id admittime dischtime deathtime admission_type admission_location '
                       'discharge_location insurance marital_status edregtime edouttime hospital_expire_flag '
                       'icu_expire_flag nationality hospital_id',
    'hosp/transfers': 'subject_id hadm_id eventtype careunit intime outtime',
    'hosp/diagnoses_icd': 'subject_id hadm_id stay_id seq_num icd_code icd_version icd_name',
    'hosp/procedures_icd': 'subject_id hadm_id stay_id seq_num icd_code icd_version chartdate opname',
    'hosp/labevents': 'subject_id hadm_id stay_id itemid charttime storetime value valuenum valueuom',
    'hosp/d_labitems': 'itemid label edi_code',
    'hosp/emar': 'subject_id hadm_id stay_id emar_id emar_seq emar_type pharmacy_id itemid charttime medication event_txt',
    'hosp/emar_detail': 'subject_id hadm_id stay_id emar_id emar_seq emar_type pharmacy_id note_txt infusion_rate_hr '
                        'infusion_rate_min',
    'icu/icustays': 'subject_id hadm_id stay_id first_careunit last_careunit intime outtime los',
    'icu/chartevents': 'subject_id hadm_id stay_id charttime storetime itemid value valuenum valueuom',
    'icu/inputevents': 'subject_id hadm_id icustay_id starttime endtime itemid amount amountuom patientweight',
    'icu/outputevents': 'subject_id hadm_id icustay_id charttime itemid value valueuom',
    'icu/procedureevents': 'subject_id hadm_id stay_id starttime endtime itemid patientweight',
    'icu/d_items': 'itemid label category linksto'}
FORMS = [r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+', r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d']


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp('registry')/'ward'
    simulate_registry(path, n_stays=200, seed=5)
    return path


@pytest.fixture(scope='module')
def truth(root): return read_json(root/'truth.json')


@pytest.fixture(scope='module')
def tables(root):
    "All tables, text columns as text."
    def read(name):
        path = root/f'{name}.{LAYOUT[name]}'
        return pq.read_table(path).to_pandas() if path.suffix == '.parquet' else pd.read_csv(path, dtype=str)
    return {name: read(name) for name in LAYOUT}


def us(text): return np.array([t.replace(' ', 'T') for t in text], 'datetime64[us]')


def test_layout(tables, truth):
    for name, columns in COLUMNS.items():
        assert list(tables[name].columns) == columns.split(), name
        assert len(tables[name]) == truth['rows'][name] > 0, name


def test_stays_admissions_patients_join(tables, truth):
    stays, adm, patients = (tables[t] for t in ('icu/icustays', 'hosp/admissions', 'hosp/patients'))
    assert stays.stay_id.is_unique and adm.hadm_id.is_unique and patients.subject_id.is_unique
    assert stays.hadm_id.isin(adm.hadm_id).all() and adm.subject_id.isin(patients.subject_id).all()
    assert (len(stays), len(adm), len(patients)) == (truth['n_stays'], truth['n_admissions'], truth['n_subjects'])
    for name, t in tables.items():
        key = next((c for c in ('stay_id', 'icustay_id') if c in t), None)
        if key: assert t[key].isin(stays.stay_id).all(), name


def test_items_are_local_and_known(tables, truth):
    d = pd.concat([tables['icu/d_items'], tables['hosp/d_labitems'].assign(linksto='labevents')])
    assert d.itemid.is_unique and d.itemid.str.match(r'\d{3}[CLOIEP]_\d{4}_\d+$').all()
    assert (d.groupby(['label', 'linksto']).itemid.nunique() % 3 == 0).all()
    for name, linksto in [('icu/chartevents', 'chartevents'), ('hosp/labevents', 'labevents'), ('hosp/emar', 'emar'),
                          ('icu/inputevents', 'inputevents'), ('icu/outputevents', 'outputevents')]:
        assert tables[name].itemid.isin(d.itemid[d.linksto == linksto]).all(), name


def test_three_time_forms_beyond_2262(tables):
    intime = tables['icu/icustays'].intime
    hits = [intime.str.fullmatch(f).sum() for f in FORMS]
    assert min(hits) > 0 and sum(hits) == len(intime)
    years = intime.str[:4].astype(int)
    assert years.min() >= 2500 and years.max() <= 3021
    assert tables['icu/chartevents'].charttime.dtype == 'datetime64[us]'
    assert tables['icu/chartevents'].charttime.dt.year.min() > 2262


def test_planted_counts_are_found(tables, truth):
    chart, planted = tables['icu/chartevents'], truth['planted']['chartevents']
    assert chart.duplicated().sum() == planted['duplicate']
    assert chart.hadm_id.isna().sum() == planted['null_hadm']
    assert (chart.value.isna() & chart.valuenum.isna()).sum() == planted['missing_value']
    assert ((chart.value == '측정불가') | chart.value.str.startswith('<', na=False)).sum() == planted['text_value']
    lab = tables['hosp/labevents']
    assert lab.duplicated().sum() == truth['planted']['labevents']['duplicate']
    stays = tables['icu/icustays']
    assert (stays.los.astype(float) <= 0).sum() == truth['planted']['icustays']['bad_los']
    assert tables['hosp/patients'].anchor_age.isna().sum() == truth['planted']['patients']['missing_age']
    notes = tables['hosp/emar_detail']
    void = (notes.emar_type == 'Note') & notes.note_txt.notna() & ~notes.note_txt.str.contains(r'\d', na=False)
    void &= ~notes.note_txt.isin(['stop', '중단', 'd/c'])
    assert void.sum() == truth['planted']['emar']['unparsable_note']


def test_times_outside_the_stay(tables, truth):
    stays = tables['icu/icustays']
    good = stays[stays.los.astype(float) > 0]
    span = pd.DataFrame(dict(stay_id=good.stay_id, a=us(good.intime), b=us(good.outtime)))
    for name, column in [('icu/chartevents', 'stay_id'), ('hosp/labevents', 'stay_id')]:
        t = tables[name].merge(span, left_on=column, right_on='stay_id')
        planted, known = truth['planted'][name.split('/')[1]], len(t)/len(tables[name])
        early, late = (t.charttime < t.a), (t.charttime > t.b)
        assert early.sum() == pytest.approx(planted['minutes_before']*known, rel=0.1, abs=6)
        assert late.sum() == pytest.approx(planted['outside']*known, rel=0.1, abs=6)
        assert (t.a - t.charttime)[early].max() < pd.Timedelta(hours=1)


def test_dirt_rates(truth):
    cfg = truth['config']
    for table, name in [('chartevents', 'icu/chartevents'), ('labevents', 'hosp/labevents')]:
        for kind in ('out_of_range', 'text_value', 'missing_value', 'minutes_before', 'outside', 'null_hadm', 'duplicate'):
            assert truth['planted'][table][kind]/truth['rows'][name] == pytest.approx(cfg[kind], rel=0.25), (table, kind)


def test_no_dirt_when_asked(tmp_path):
    none = {k: 0.0 for k in ('out_of_range', 'unit_variant', 'text_value', 'missing_value', 'minutes_before', 'outside',
                             'null_hadm', 'duplicate', 'unparsable_note', 'missing_age', 'bad_los')}
    simulate_registry(tmp_path/'clean', cfg=SimulateConfig(n_stays=30, **none))
    planted = read_json(tmp_path/'clean'/'truth.json')['planted']
    assert not {t: {k: v for k, v in d.items() if v and not k.startswith('valid')} for t, d in planted.items()
                if any(v for k, v in d.items() if not k.startswith('valid'))}


def test_mortality_and_repeats():
    p = population(SimulateConfig(n_stays=3000, seed=2))
    assert 0.07 <= (p.outcome > 0).mean() <= 0.13 and set(p.outcome) == {0, 1, 2}
    assert 0.10 <= p.groupby('subject').size().gt(1).mean() <= 0.15
    assert p.groupby('admission').size().gt(1).any()  # two ICU stays in one admission
    dead = p.groupby('subject').outcome.transform('max') > 0
    assert (dead & (p.outcome == 0)).any()  # an earlier, survived stay of somebody who dies later
    inside = p.deathtime[p.outcome == 1]
    assert ((inside > p.intime[inside.index]) & (inside <= p.outtime[inside.index])).all()
    los = p.los/24
    assert 2.5 < los.median() < 4 and (los < 0.5).any() and (los > 10).any()
    assert (p.age < 15).any() and (p.age > 100).any()


def test_sicker_die_and_are_measured_more(root, tables, truth):
    p = population(SimulateConfig(**truth['config']))
    assert p.trait[p.outcome > 0].mean() > p.trait[p.outcome == 0].mean() + 0.5
    per_hour = tables['hosp/labevents'].groupby('stay_id').size().reindex(p.stay_id, fill_value=0).to_numpy()/p.los
    assert per_hour[p.trait > p.trait.median()].mean() > 1.1*per_hour[p.trait <= p.trait.median()].mean()


def test_charting_rates(root, truth):
    "Rows per heart-rate row, against the facts, for features that are charted often enough to judge."
    dictionary = duckdb.sql(f"""
        select label, count(*) n from (
          select itemid from '{root}/icu/chartevents.parquet' union all select itemid from '{root}/hosp/labevents.parquet')
        join (select itemid, label from read_csv('{root}/icu/d_items.csv', all_varchar=true) union all
              select itemid, label from read_csv('{root}/hosp/d_labitems.csv', all_varchar=true)) using (itemid)
        group by label""").df().set_index('label').n
    hr = dictionary['HR > 심박동수']
    for item in simulation_facts()['item']:
        if item['table'] in ('chartevents', 'labevents') and item['rate'] > 0.05 and item.get('gate', 'all') == 'all':
            assert dictionary[item['labels']].sum()/hr == pytest.approx(item['rate'], rel=0.25), item['feature']


def test_physiology_in_the_tables(root):
    q = duckdb.sql(f"""
        with d as (select itemid, label from read_csv('{root}/icu/d_items.csv', all_varchar=true)),
        c as (select stay_id, charttime, label, any_value(valuenum) v from '{root}/icu/chartevents.parquet' join d
              using (itemid) where label in ('SBP > 수축기혈압', 'DBP > 이완기혈압', 'mean BP(연동) > 평균혈압(연동)')
              and valuenum between 1 and 300 group by all)
        select max(v) filter (label like 'SBP%') s, max(v) filter (label like 'DBP%') d,
               max(v) filter (label like 'mean%') m from c group by stay_id, charttime""").df().dropna()
    assert len(q) > 1000 and ((q.d <= q.m) & (q.m <= q.s)).mean() > 0.99


def test_infusion_notes(tables):
    emar, detail = tables['hosp/emar'], tables['hosp/emar_detail']
    assert {'start', 'change', 'stop'} <= set(emar.event_txt) and set(emar.emar_type) == {'Note', 'Bolus'}
    rates = detail.note_txt[detail.emar_type == 'Note'].dropna()
    for pattern in (r'^\d+cc/hr$', r'mcg/kg/min', r'로 변경$', r'^[\d.]+ unit/hr$', r'mcg/min'):
        assert rates.str.contains(pattern).any(), pattern
    several = emar.groupby(['stay_id', 'charttime']).medication.nunique()
    assert (several > 1).any()
    ages = tables['hosp/patients'].anchor_age.dropna()
    assert ages.str.contains(r'^\d+ years, \d+ months, \d+ days$').any() and ages.str.fullmatch(r'\d+').any()


def test_valid_extremes_are_written(truth):
    planted = truth['planted']['chartevents']
    assert planted['valid_spo2_100'] > 100 and planted['valid_peep_0'] > 0


def test_same_seed_same_bytes(tmp_path):
    for name, seed in [('a', 1), ('b', 1), ('c', 2)]: simulate_registry(tmp_path/name, n_stays=25, seed=seed)
    assert digest(tmp_path/'a') == digest(tmp_path/'b') != digest(tmp_path/'c')


def test_chunks_never_split_a_patient(tmp_path):
    simulate_registry(tmp_path/'x', cfg=SimulateConfig(n_stays=60, chunk_stays=7))
    t = pq.ParquetFile(tmp_path/'x'/'icu'/'chartevents.parquet')
    assert t.num_row_groups > 5
    subjects = [set(t.read_row_group(i, columns=['subject_id'])[0].to_pylist()) for i in range(t.num_row_groups)]
    assert all(not (a & b) for a, b in zip(subjects, subjects[1:]))


def test_replaced_in_one_step_and_nothing_left_on_error(tmp_path):
    simulate_registry(tmp_path/'x', n_stays=5)
    simulate_registry(tmp_path/'x', n_stays=6)
    assert read_json(tmp_path/'x'/'truth.json')['n_stays'] == 6
    with pytest.raises(ConfigError, match='hospitals'): simulate_registry(tmp_path/'y', cfg=SimulateConfig(hospitals=0))
    assert [d.name for d in tmp_path.iterdir()] == ['x']


def test_facts_are_complete():
    facts = simulation_facts()
    names = {i['feature'] for i in facts['item'] if i['feature']} | {d['feature'] for d in facts['drug']}
    assert len(names) == 129
    for i in facts['item']:
        assert i['low'] < i['high'] and i['step'] > 0 and i['rate'] > 0 and i['labels'], i['feature']
        assert i.get('gate', 'all').replace('no_', '') in {'all', *facts['gate']}
    assert all(re.match(r'^[A-Z]\d\d', d['code']) for d in facts['diagnosis']) and len(facts['diagnosis']) >= 60
