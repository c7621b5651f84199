"Raw tables in, hour grid out: the data faults of METHODS.md, by number, on registries small enough to check by hand."
import gzip
import io
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synkmimic.core import ConfigError, DataError, SynkError, read_json
from synkmimic.simulate import simulate_registry
from synkmimic.sources.concepts import load_concepts
from synkmimic.sources.extract import KEPT, DataConfig, fit_levels
from synkmimic.sources.load import load_cohort
from synkmimic.toy import toy_cohort

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'
DEMO, CHALLENGE = DATA/'mimic-iv-demo-2.2', DATA/'physionet-challenge-2012'
demo = pytest.mark.skipif(not DEMO.is_dir(), reason=f'the MIMIC-IV demo is not at {DEMO.name} beside the project')
challenge = pytest.mark.skipif(not CHALLENGE.is_dir(), reason=f'{CHALLENGE.name} is not beside the project')

# ---- a registry written by hand -------------------------------------------------------------------------------------
LABELS = dict(HR=('icu', 'HR > 심박동수'), SPO2=('icu', 'SpO2 > 산소포화도'), PEEP=('icu', 'set PEEP > PEEP level'),
              BT=('icu', 'BT > 체온'),
              FOLEY=('icu', '유치도뇨 > 유치도뇨'), CRRT=('icu', 'CVVHDF-fluid removal > 투석 fluid removal'),
              IV=('icu', '정맥주입 > 정맥주입량(cc)'),
              XRAY=('icu', 'Chest AP'), LACT=('lab', 'Lactate(검사24시간가능)'), SAO2=('lab', 'O₂SAT'))
NE, VASO, PLASMA, NIC = ('Norpin 4mg/4ml inj(Norepinephrine)', 'Vasopressin 20unit/1mL inj 한림(Vasopressin)',
                         'Plasma solution A 1000mL bag',
                         'Perdipine 10mg/10mL inj(Nicardipine)')
COLUMNS = {
    'hosp/patients': 'subject_id sex anchor_age dod',
           'hosp/admissions': 'subject_id hadm_id admittime dischtime deathtime admission_type '
    'discharge_location insurance marital_status hospital_expire_flag icu_expire_flag nationality',
    'hosp/transfers': 'subject_id hadm_id careunit intime outtime',
           'hosp/diagnoses_icd': 'subject_id hadm_id stay_id icd_code icd_version',
    'hosp/procedures_icd': 'subject_id hadm_id stay_id icd_code icd_version', 'hosp/d_labitems': 'itemid label',
    'hosp/labevents': 'stay_id itemid charttime value valuenum valueuom', 'icu/d_items': 'itemid label',
    'hosp/emar': 'stay_id emar_id emar_seq emar_type pharmacy_id itemid charttime medication event_txt',
    'hosp/emar_detail': 'stay_id emar_id emar_seq note_txt infusion_rate_hr',
    'icu/icustays': 'subject_id hadm_id stay_id first_careunit intime outtime',
    'icu/chartevents': 'stay_id itemid charttime value valuenum valueuom',
    'icu/inputevents': 'icustay_id itemid starttime endtime amount amountuom patientweight',
    'icu/outputevents': 'icustay_id itemid charttime value valueuom',
           'icu/procedureevents': 'stay_id itemid starttime endtime',
}

class Registry:
    "Rows in K-MIMIC layout, written as CSV."
    def __init__(self):
        self.rows = {k: [] for k in COLUMNS}
        for item,(place,label) in LABELS.items(): self.rows['icu/d_items' if place == 'icu'
                                                            else 'hosp/d_labitems'].append((item, label))

    def stay(self, stay='s1', person='p1', admission=None, t0='3021-05-01 10:00:00', t1='3021-05-02 22:00:00',
             out='3021-05-09 10:00:00',
             death='', dod='', age='64 years, 10 months, 5 days', unit='MICU', flags=0, marital='Married'):
        admission = admission or f'a_{stay}'
        self.rows['hosp/patients'] += [(person, 'F', age,
                                        dod)]*(person not in [r[0] for r in self.rows['hosp/patients']])
        self.rows['hosp/admissions'] += [(person, admission, t0, out, death, 'Admission', 'Home', 'NHI', marital,
                                          flags, flags, 'Korea')]*(
            admission not in [r[1] for r in self.rows['hosp/admissions']])
        self.rows['icu/icustays'].append((person, admission, stay, unit, t0, t1))
        self.rows['hosp/transfers'].append((person, admission, unit, t0, t1))
        return self

    def chart(self, item, time, value, unit='', stay='s1', table='icu/chartevents'):
        self.rows[table].append((stay, item, _time(time), value, value, unit))
        return self
    def out(self, item, time, value, stay='s1'): self.rows['icu/outputevents'].append((stay, item, _time(time), value,
            'cc')); return self
    def give(self, start, end, amount, stay='s1', weight=60, item='IV'):
        self.rows['icu/inputevents'].append((stay, item, _time(start), _time(end), amount, 'cc', weight))
        return self
    def drug(self, name, time, event, note, stay='s1', line='x', kind='Note'):
        k = len(self.rows['hosp/emar'])
        self.rows['hosp/emar'].append((stay, f'e{k}', k, kind, line, '', _time(time), name, event))
        self.rows['hosp/emar_detail'].append((stay, f'e{k}', k, note, ''))
        return self

    def write(self, root):
        for name,columns in COLUMNS.items():
            (root/name).parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(self.rows[name], columns=columns.split(), dtype=str).to_csv(root/f'{name}.csv', index=False)
        return root

def _time(text): return text if len(text) > 5 else f'3021-05-01 {text}:00'
def one(): return Registry().stay().chart('HR', '10:30', 80)
def load(registry, tmp_path, **options):
    return load_cohort('kmimic', registry.write(tmp_path/'registry'), cfg=DataConfig(**(dict(min_people=1, at_precision=False) | options)))
def hours(cohort, name, n=4, i=0): return np.nan_to_num(cohort.value(name)[i, :n].astype(float),
                                                        nan=-1).round(4).tolist()
def adds_up(report, root):
    "Every table: rows read = rows in the file, counted independently."
    read = report.rows_read
    for name,n in read.items():
        path = Path(root)/f'{name}.csv'
        if path.exists(): assert n == len(pd.read_csv(path, dtype=str)), name

# ---- the faults -----------------------------------------------------------------------------------------------------
def test_fault_01_nothing_is_imputed_and_levels_are_learnt_on_train(tmp_path):
    c, _ = load(one().chart('HR', '13:30', 90), tmp_path)
    assert hours(c, 'hr', 5) == [80, -1, -1, 90, -1]
    train, holdout = toy_cohort(n=240, hours=6).split_by_subject(seed=1)
    rare = holdout.schema.feature('admission_type').levels[0]
    train = train.take((train.static.admission_type != rare).to_numpy())
    levels = fit_levels(train, min_people=11)
    assert rare not in dict(levels.levels)['admission_type']
    moved = levels.apply(holdout)
    assert moved.schema == levels.apply(train).schema
    assert rare not in set(moved.static.admission_type.dropna())

def test_hourly_means_are_given_at_the_charting_step(tmp_path):
    r = one().chart('HR', '13:10', 90).chart('HR', '13:40', 93)
    assert hours(load(r, tmp_path)[0], 'hr', 4)[3] == 91.5
    assert hours(load(r, tmp_path, at_precision=True)[0], 'hr', 4)[3] == 92

def test_fault_02_volumes_are_summed_and_intervals_split(tmp_path):
    r = one().out('FOLEY', '10:05', 30).out('FOLEY', '10:50', 50).give('10:30', '13:00', 150)
    c, _ = load(r, tmp_path)
    assert hours(c, 'urine_foley') == [80, -1, -1, -1]
    assert hours(c, 'iv_in') == [30, 60, 60, -1] and np.nansum(c.value('iv_in')) == 150

def test_the_order_of_the_rows_does_not_show_even_in_a_tie(tmp_path):
    "0.1 + 0.2 + 2.2 is two and a half or a little more, by the order: 2 mL or 3 mL at the charting step."
    rows, said = [('10:05', 0.1), ('10:15', 0.2), ('10:25', 2.2)], []
    assert 0.1 + 2.2 + 0.2 > 2.5 == 0.1 + 0.2 + 2.2
    for k,order in enumerate(itertools.permutations(rows)):
        r = one()
        for time,amount in order: r.out('FOLEY', time, amount).give(time, '10:30', amount)
        c, _ = load(r, tmp_path/str(k), at_precision=True)
        said.append((c.fingerprint(), hours(c, 'urine_foley')[0], hours(c, 'iv_in')[0]))
    assert set(said) == {(said[0][0], 2., 2.)}

def test_fault_02_an_interval_from_before_admission_gives_its_part_inside(tmp_path):
    c, _ = load(one().give('09:30', '10:30', 100), tmp_path)
    assert hours(c, 'iv_in') == [50, -1, -1, -1]

def test_fault_03_no_drug_is_zero_and_only_inside_the_stay(tmp_path):
    c, _ = load(one().stay('s2', 'p2', t1='3021-05-02 00:30:00').chart('HR', '10:10', 70, stay='s2'), tmp_path,
                min_people=0)
    v = c.value('norepinephrine')
    assert (v[0] == 0).all() and (v[1, :15] == 0).all() and np.isnan(v[1, 15:]).all() and c.length.tolist() == [30, 15]

def test_fault_04_ranges_are_inclusive(tmp_path):
    r = one().chart('SPO2', '10:10', 100).chart('SPO2', '11:10', 101).chart('PEEP', '10:10', 0).chart('SAO2', '10:10',
            100, table='hosp/labevents')
    r.out('CRRT', '10:10', 0).give('10:00', '11:00', 0)
    c, report = load(r, tmp_path)
    assert [hours(c, n, 1)[0] for n in ('o2sat', 'peep', 'sao2', 'crrt_removal', 'iv_in')] == [100, 0, 100, 0, 0]
    assert report.dropped('icu/chartevents')['out of range'] == 1

def test_fault_05_labels_come_from_times(tmp_path):
    death = '3021-05-06 09:00:00'
    r = Registry()
    r.stay('early', 'p1', 'a1', death=death, flags=1).stay('late', 'p1', 'a1', t0='3021-05-05 09:00:00',
                                                           t1='3021-05-06 09:00:00')
    r.stay('before', 'p1', 'a0', t0='3021-01-01 10:00:00', t1='3021-01-03 10:00:00', out='3021-01-05 10:00:00')
    r.stay('ward', 'p2', death='3021-05-07 10:00:00', flags=1).stay('home', 'p3', dod='3021-08-01')
    r.stay('dated', 'p4', dod='3021-05-02', flags=1, t1='3021-05-03 22:00:00')
    for s in ('early', 'ward', 'home', 'dated'): r.chart('HR', '11:00', 80, stay=s)
    r.chart('HR', '3021-05-05 10:00:00', 80, stay='late').chart('HR', '3021-01-01 10:00:00', 80, stay='before')
    c, _ = load(r, tmp_path)
    label = dict(zip(c.stay_id, np.array(c.schema.outcomes)[c.outcome]))
    assert label == dict(early='hospital_death', late='icu_death', before='survived', ward='hospital_death',
                         home='survived', dated='icu_death')

def test_fault_06_all_drugs_kept_and_stops_and_changes_honoured(tmp_path):
    r = one().give('10:00', '11:00', 0, weight=50)
    r.drug(NE, '10:00', 'start', '0.1mcg/kg/min', line='a').drug(VASO, '10:00', 'start', '0.04 unit/min', line='b')
    r.drug(NE, '10:00', 'start', '5 mcg/min', line='c').drug(NE, '11:30', 'change', '10mcg/min 로 변경', line='c')
    r.drug(NE, '12:00', 'stop', '', line='a').drug(NE, '12:00', 'stop', '중단', line='c')
    r.drug(PLASMA, '09:00', 'start', '50cc/hr', line='d').drug(NIC, '10:00', 'start', '6 cc/hr', line='e').drug(NE,
            '15:00', 'start', 'PRN', line='a')
    r.drug(NE, '16:30', 'stop', '', line='a')
    c, report = load(r, tmp_path)
    assert hours(c, 'norepinephrine', 8) == [10, 12.5, 0, 0, 0, -1, -1,
                                             0] # the unreadable rate is unknown, neither 0 nor 10
    assert hours(c, 'vasopressin', 24)[-1] == pytest.approx(0.04) and hours(c, 'plasma_solution', 2) == [50, 50]
    d = report.dropped('hosp/emar')
    assert d == {KEPT: 8, 'rate not understood': 1, 'needs a concentration': 1}
    assert 'nicardipine' not in c.schema.names('values') # no concentration, so never a known rate
    assert not any('PRN' in str(x) for x in report.table.to_numpy().ravel()), 'a note left the registry in the report'

def test_fault_06_a_rate_per_kilogram_without_a_weight_is_dropped_and_counted(tmp_path):
    c, report = load(one().drug(NE, '10:00', 'start', '0.1mcg/kg/min').drug(NE, '12:00', 'start', '6 mcg/min'),
                     tmp_path)
    assert report.dropped('hosp/emar') == {'no weight': 1, KEPT: 1} and hours(c, 'norepinephrine', 3) == [-1, -1, 6]

def test_fault_07_minutes_before_admission_are_not_hour_zero(tmp_path):
    c, report = load(one().chart('HR', '09:59', 200).chart('BT', '3021-05-01T10:00:00', 37.5), tmp_path)
    assert hours(c, 'hr', 2) == [80, -1] and hours(c, 'temp', 1) == [37.5]
    assert report.dropped('icu/chartevents') == {'before admission': 1, KEPT: 2}

def test_fault_08_values_keep_their_decimals(tmp_path):
    r = one().chart('LACT', '10:10', 1.2345, table='hosp/labevents').drug(VASO, '10:00', 'start', '0.0125 unit/min')
    c, _ = load(r, tmp_path)
    assert c.value('lact')[0, 0] == np.float32(1.2345) and c.value('vasopressin')[0, 0] == np.float32(0.0125)
    assert c.schema.feature('lact').precision == 0.1

def test_fault_10_what_is_known_after_the_stay_is_marked(tmp_path):
    r = one()
    r.rows['hosp/diagnoses_icd'] += [('p1', 'a_s1', 's1', 'I50.9', 'KCD8')]
    r.rows['hosp/procedures_icd'] += [('p1', 'a_s1', 's1', '36.11', 'ICD9CM')]
    c, _ = load(r, tmp_path)
    role = {f.name: f.role for f in c.schema.static}
    assert [role[n] for n in ('los', 'discharge_location', 'dx_i50', 'px9_361')] == ['discharge']*4
    known = {n for n,x in role.items() if x == 'admission'}
    assert known == {'age', 'weight', 'sex', 'marital_status', 'admission_type', 'insurance', 'first_careunit'}
    c, _ = load(r, tmp_path/'two', nationality='two_levels') # sensitive information: only when asked for
    assert c.schema.feature('nationality').levels == ('domestic',)

# ---- the report -----------------------------------------------------------------------------------------------------
def test_report_adds_up_and_each_row_has_one_reason(tmp_path):
    r = one().stay('s2', 'p2', age='3 months').stay('s3', 'p3', t1='3021-05-01 09:00:00').stay('s4', 'p4').stay('s5',
            'p5', age='?')
    r.chart('HR', '10:30', 80).chart('HR', '10:31', 'n/a').chart('XX', '10:31', 1).chart('HR', '10:31', 70,
            stay='nobody')
    r.chart('HR', 'never at all', 70).chart('BT', '10:40', 310, 'kelvin').chart('BT', '10:40', 98.6, '℉').chart('HR',
            '10:31', 70, stay='s2')
    r.chart('HR', '3021-05-02 22:00:00', 70).chart('HR', '3021-05-02 21:00:00', 70).chart('HR', '10:45', 999)
    c, report = load(r, tmp_path)
    adds_up(report, tmp_path/'registry')
    assert report.dropped('icu/chartevents') == {
        KEPT: 2, 'duplicate row': 1, 'no number': 1, 'item not in dictionary': 1, 'stay unknown': 1, 'no time': 1,
                                                 'unknown unit': 1,
        'stay filtered out': 1, 'outside the stay': 1, 'after the window': 1, 'out of range': 1}
    assert report.dropped('icu/icustays') == {KEPT: 2, 'age outside the range': 1, 'leaves before it enters': 1,
                                              'age unknown': 1}
    assert report.dropped('hourly') == {KEPT: 1, 'no event in the window': 1} and list(c.stay_id) == ['s1']
    assert hours(c, 'temp', 1) == [37.0]
    report.save(tmp_path/'out')
    assert pd.read_csv(tmp_path/'out'/'extraction.csv').rows.sum() == report.table.rows.sum()

def test_formats_mix_and_give_the_same_cohort(tmp_path):
    r = one().out('FOLEY', '10:05', 30).chart('LACT', '10:10', 1.5, table='hosp/labevents')
    c, _ = load(r, tmp_path)
    root = tmp_path/'registry'
    chart, lab = root/'icu'/'chartevents.csv', root/'hosp'/'labevents.csv'
    frame = pd.read_csv(chart, dtype=dict(stay_id=str,
                                          itemid=str)).assign(charttime=lambda d: d.charttime.astype('datetime64[us]'))
    pq.write_table(pa.Table.from_pandas(frame), chart.with_suffix('.parquet'))
    with gzip.open(f'{lab}.gz', 'wb') as f: f.write(lab.read_bytes())
    chart.unlink(); lab.unlink()
    again, _ = load_cohort('kmimic', root, cfg=DataConfig(min_people=1))
    assert again.fingerprint() == c.fingerprint()

def test_rare_levels_and_codes_are_merged_or_dropped(tmp_path):
    r = Registry()
    for k in range(15): r.stay(f's{k}', f'p{k}', marital='Single' if k == 0 else 'Married').chart('HR', '10:30',
            80 + k, stay=f's{k}')
    r.rows['hosp/diagnoses_icd'] += [(f'p{k}', f'a_s{k}', f's{k}', code, 'KCD8') for k in range(15)
                                     for code in ('I10', 'N17')[:1 + (k < 3)]]
    c, report = load(r, tmp_path, min_people=11)
    assert c.static.marital_status.isna().sum() == 1 and c.schema.feature('marital_status').levels == ('Married',)
    assert [f.name for f in c.schema.static if f.group == 'diagnosis'] == ['dx_i10']
    assert ((report.table.stage == 'codes') & (report.table.reason == 'seen in too few people')).any()

# ---- bad input ------------------------------------------------------------------------------------------------------
def test_a_wrong_root_a_missing_table_and_a_missing_column_are_named(tmp_path):
    root = one().write(tmp_path/'registry')
    with pytest.raises(DataError, match='does not exist'): load_cohort('kmimic', tmp_path/'nowhere')
    with pytest.raises(DataError, match='data.root must be the folder'): load_cohort('kmimic', root/'icu')
    (root/'hosp'/'emar.csv').rename(root/'hosp'/'emar_old.csv')
    with pytest.raises(DataError, match='hosp/emar'): load_cohort('kmimic', root)
    c, report = load_cohort('kmimic', root, cfg=DataConfig(min_people=1, skip_missing_tables=True))
    assert 'norepinephrine' not in c.schema.names('values') and (report.table.reason == 'table missing').any()
    (root/'icu'/'chartevents.csv').write_text('stay_id,itemid,charttime,value,valueuom\n')
    with pytest.raises(DataError, match='column valuenum'): load_cohort('kmimic', root,
            ['data.skip_missing_tables=true'])

def test_an_empty_file_an_empty_cohort_and_a_stay_without_events(tmp_path):
    root = one().write(tmp_path/'registry')
    with pytest.raises(DataError, match='no stay passes the filters'): load_cohort('kmimic', root, ['data.age_low=90'])
    (root/'icu'/'chartevents.csv').write_text(','.join(COLUMNS['icu/chartevents'].split()) + '\n')
    with pytest.raises(DataError, match='no stay has an event'): load_cohort('kmimic', root)
    (root/'icu'/'chartevents.csv').write_bytes(b'')
    with pytest.raises(DataError, match='the file is empty'): load_cohort('kmimic', root)
    (root/'icu'/'chartevents.csv').unlink()
    (root/'icu'/'chartevents.parquet').write_bytes(b'not parquet')
    with pytest.raises(DataError, match='cannot be read'): load_cohort('kmimic', root)

def test_unknown_sources_and_options(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'mimiciv'"): load_cohort('mimic-iv', tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'hours'"): load_cohort('kmimic', tmp_path, ['data.hour=3'])

def test_a_dictionary_with_a_mistake_does_not_load():
    for bad,message in ((dict(unit='mg/dL', low=1, high=0), 'low <= high'),
                        (dict(unit='mg/dL', low=0, high=1, agg='median'), 'unknown agg'),
                        (dict(unit='mg/dL', low=0, high=1, mimiciv=[dict(table='labevents', ids=[1], unit='g')]),
                         'no conversion')):
        with pytest.raises(SynkError, match=message): load_concepts('mimiciv', groups={'lab': {'crea': bad}})

# ---- the simulated registry -----------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp('simulated')/'registry'
    simulate_registry(root, n_stays=300, seed=3)
    wide = DataConfig(hours=24*31, age_low=0, age_high=130, los_low=0, los_high=40, min_hours=0)
    return root, read_json(root/'truth.json'), load_cohort('simulated', root, cfg=wide)

def test_the_simulated_registry_meets_its_truth(simulated):
    root, truth, (c, report) = simulated
    assert {k: v for k,v in report.rows_read.items() if k in truth['rows']} == {k: truth['rows'][k]
            for k in report.rows_read if k in truth['rows']}
    stays = report.dropped('icu/icustays')
    assert stays['leaves before it enters'] == truth['planted']['icustays']['bad_los']
    assert int((c.outcome > 0).sum()) <= truth['outcomes']['icu_death'] + truth['outcomes']['hospital_death']
    lost = stays.get('age unknown', 0) + stays['leaves before it enters']
    assert len(c) == truth['n_stays'] - lost and c.schema.origin == 'simulated'
    for table,name in (('icu/chartevents', 'chartevents'), ('hosp/labevents', 'labevents'),
                       ('icu/outputevents', 'outputevents')):
        d, planted = report.dropped(table), truth['planted'][name]
        for reason,kinds in (('before admission', ['minutes_before']), ('outside the stay', ['outside']),
                             ('duplicate row', ['duplicate']),
                             ('no number', ['missing_value', 'text_value'])):
            n = sum(planted.get(k, 0) for k in kinds)
            said = d.get(reason, 0) + (d.get('only a limit (< or >)', 0) if reason == 'no number' else 0)
            assert 0.85*n - 10 <= said <= n + 10, f'{table}: {reason} {d.get(reason)} of {n} planted'
        assert d.get('out of range', 0) <= planted['out_of_range'] and 'unknown unit' not in d

def test_extraction_is_deterministic_and_core_is_a_subset(simulated):
    root, _, _ = simulated
    (a, _), (b, _) = (load_cohort('simulated', root, ['data.features=core', f'data.threads={k}']) for k in (1, 2))
    assert a.fingerprint() == b.fingerprint()
    assert 30 <= len(a.schema.values) <= 50

# ---- open data ------------------------------------------------------------------------------------------------------
@demo
def test_the_mimic_demo_agrees_with_pandas():
    c, report = load_cohort('mimiciv', DEMO, cfg=DataConfig(at_precision=False))
    stays = pd.read_csv(DEMO/'icu'/'icustays.csv.gz', parse_dates=['intime', 'outtime'])
    chart = pd.read_csv(DEMO/'icu'/'chartevents.csv.gz', usecols=['stay_id', 'charttime', 'itemid', 'valuenum'],
                        parse_dates=['charttime'])
    h = chart[chart.itemid == 220045].merge(stays[['stay_id', 'intime', 'outtime']], on='stay_id').drop_duplicates()
    h = h[(h.charttime >= h.intime) & (h.charttime < h.outtime) & h.valuenum.between(1, 300)]
    h['hour'] = (h.charttime - h.intime).dt.total_seconds()//3600
    mean = h[h.hour < 30].groupby(['stay_id', 'hour']).valuenum.mean()
    at = {int(s): i for i,s in enumerate(c.stay_id)}
    mean = mean[[s in at for s,_ in mean.index]]
    ours = c.value('hr')[[at[s] for s,_ in mean.index], [int(t) for _,t in mean.index]]
    assert np.allclose(ours, mean, atol=1e-3) and c.mask[..., c.schema.index('values', 'hr')].sum() == len(mean) > 3000
    assert report.rows_read['icu/chartevents'] == len(chart) and report.rows_read['icu/icustays'] == 140
    assert c.schema.origin == 'open' and len(c) == 122

@demo
def test_the_mimic_demo_norepinephrine_agrees_with_pandas():
    c, _ = load_cohort('mimiciv', DEMO, ['data.min_people=1'])
    stays = pd.read_csv(DEMO/'icu'/'icustays.csv.gz', parse_dates=['intime', 'outtime'])
    d = pd.read_csv(DEMO/'icu'/'inputevents.csv.gz', parse_dates=['starttime',
            'endtime']).query('itemid == 221906').merge(stays, on='stay_id')
    at = {int(s): i for i,s in enumerate(c.stay_id)}
    d = d[d.stay_id.isin(at) & d.rate.notna()].drop_duplicates(['stay_id', 'starttime', 'endtime', 'rate'])
    total = 0.
    for r in d.itertuples(): # minutes of each row inside the window, times mcg/min
        a, b = max(r.starttime, r.intime), min(r.endtime, r.outtime, r.intime + pd.Timedelta(hours=30))
        total += max((b - a).total_seconds(), 0)/60*r.rate*r.patientweight
    out = (stays.set_index('stay_id').loc[[int(s)
            for s in c.stay_id]].eval('outtime - intime').dt.total_seconds().to_numpy()/3600)
    inside = np.clip(out[:, None] - np.arange(30), 0, 1)
    assert np.nansum(c.value('norepinephrine')*inside*60) == pytest.approx(total, rel=1e-3)

@challenge
def test_challenge_2012_set_a(tmp_path):
    (tmp_path/'set-a.tar.xz').symlink_to(CHALLENGE/'set-a.tar.xz')
    c, report = load_cohort('challenge2012', tmp_path, ['data.hours=48', 'data.min_hours=1'])
    assert report.rows_read['stays'] == 4000 and report.dropped('stays')['no series'] == 3
    again = [load_cohort('challenge2012', tmp_path, ['data.hours=48', 'data.min_hours=1', f'data.threads={k}'])[0].fingerprint() for k in (1, 4)]
    assert set(again) == {c.fingerprint()} # DuckDB gives its rows in any order
    assert len(c) == 3997 and c.schema.outcomes == ('survived', 'hospital_death') and c.schema.origin == 'open'
    with tarfile.open(CHALLENGE/'set-a.tar.xz', 'r|xz') as t: files = {Path(m.name).name: t.extractfile(m).read()
            for m in t if m.isfile()}
    outcomes = pd.read_csv(io.BytesIO(files.pop('Outcomes-a.txt'))).set_index('RecordID')['In-hospital_death']
    assert report.rows_read['lines'] == sum(f.count(b'\n') - 1 for f in files.values())
    assert outcomes.sum() == 554 and c.outcome.tolist() == outcomes.loc[c.stay_id.astype(int)].tolist()
