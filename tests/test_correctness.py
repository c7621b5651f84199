"""Real data, read twice: by the package, and by plain pandas written here from the raw files.

Compared: which cells of the hour grid hold a value, and the values; stays, outcomes, lengths and static columns between two layouts of the same
people. Not compared, and why, is said beside each test. Everything is read with `at_precision=False`, so that means are as computed.
"""
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synkmimic.core import DataError
from synkmimic.sources.concepts import load_concepts
from synkmimic.sources.extract import KEPT, DataConfig
from synkmimic.sources.load import load_cohort

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'
DEMO, CHALLENGE = DATA/'mimic-iv-demo-2.2', DATA/'physionet-challenge-2012'
demo = pytest.mark.skipif(not DEMO.is_dir(), reason=f'the MIMIC-IV demo is not at {DEMO.name} beside the project')
challenge = pytest.mark.skipif(not CHALLENGE.is_dir(), reason=f'{CHALLENGE.name} is not beside the project')
HOURS = 30
OPTIONS = dict(hours=HOURS, min_people=1, at_precision=False, carry_hours=24*60)

def raw(table, columns, times=()):
    frame = pd.read_csv(DEMO/f'{table}.csv.gz', usecols=[*columns, *times], dtype=str)
    for t in times: frame[t] = pd.to_datetime(frame[t]).astype('datetime64[us]')
    return frame

def all_stays(): return raw('icu/icustays', ['subject_id', 'hadm_id', 'stay_id', 'first_careunit', 'last_careunit', 'los'], ['intime', 'outtime'])

@pytest.fixture(scope='module')
def mimic(): return load_cohort('mimiciv', DEMO, cfg=DataConfig(**OPTIONS))

@pytest.fixture(scope='module')
def charted():
    return raw('icu/chartevents', ['stay_id', 'itemid', 'valuenum', 'valueuom'], ['charttime']).merge(all_stays()[['stay_id', 'intime', 'outtime']], on='stay_id')

@pytest.fixture(scope='module')
def measured():
    "Laboratory rows with the stay they fall into: the latest one of the person that had begun."
    rows = raw('hosp/labevents', ['labevent_id', 'subject_id', 'itemid', 'valuenum', 'valueuom'], ['charttime'])
    pairs = rows.merge(all_stays()[['subject_id', 'stay_id', 'intime', 'outtime']], on='subject_id')
    return pairs[pairs.intime <= pairs.charttime].sort_values('intime').drop_duplicates('labevent_id', keep='last')

def grid(rows, items, low, high, convert):
    "The mean of each stay and hour, the slow and obvious way: one value per identical row, inclusive range, floor of hours."
    r = rows[rows.itemid.isin([str(i) for i in items])].copy()
    r['value'] = convert(pd.to_numeric(r.valuenum), r.valueuom)
    r['hour'] = np.floor((r.charttime - r.intime).dt.total_seconds()/3600)
    r = r[(r.charttime >= r.intime) & (r.charttime < r.outtime) & (r.hour < HOURS) & (r.value >= low) & (r.value <= high)]
    r = r.drop_duplicates(['stay_id', 'itemid', 'charttime', 'value'])
    return r.groupby(['stay_id', 'hour']).value.mean()

def same_cells(cohort, name, expected):
    "The cohort holds exactly the expected cells of the stays it has."
    at = {s: i for i,s in enumerate(cohort.stay_id)}
    expected = expected[[s in at for s,_ in expected.index]]
    want = np.full((len(cohort), HOURS), np.nan)
    want[[at[s] for s,_ in expected.index], [int(h) for _,h in expected.index]] = expected
    got = cohort.value(name).astype(float)
    assert (np.isnan(got) == np.isnan(want)).all(), f'{name}: {np.sum(~np.isnan(got))} cells, expected {np.sum(~np.isnan(want))}'
    np.testing.assert_allclose(got, want, rtol=1e-6)
    return len(expected)

as_is = lambda v, u: v
VITALS = { # items, range, conversion: written down here, not taken from the dictionary; cells expected at least
    'hr': ([220045], 1, 300, as_is, 3000), 'o2sat': ([220277], 1, 100, as_is, 3000), 'resp': ([220210], 0, 100, as_is, 3000),
    'sbp': ([220179, 224167, 227243], 1, 350, as_is, 1500), 'dbp': ([220180, 224643, 227242], 1, 300, as_is, 1500), 'map': ([220181], 1, 350, as_is, 1500),
    'sbp_art': ([220050, 225309], 1, 350, as_is, 900), 'dbp_art': ([220051, 225310], 1, 300, as_is, 900), 'map_art': ([220052, 225312], 1, 300, as_is, 900),
    'temp': ([223762, 226329, 227632, 227634, 223761], 25, 43, lambda v, u: v.where(u != '°F', (v - 32)*5/9), 800)}
LABS = {'crea': ([50912, 52024], 0.01, 30, as_is, 250), 'k': ([50971, 50822], 0.1, 15, as_is, 250), 'na': ([50983, 50824], 1, 200, as_is, 250),
        'hgb': ([51222, 50811], 0.1, 25, as_is, 250), 'plt': ([51265], 0, 5000, as_is, 200), 'lact': ([50813], 0.1, 40, as_is, 90),
        'mg': ([50960], 0.1, 8, lambda v, u: v*2/24.305*10, 200), 'anc': ([52075], 0, 200_000, lambda v, u: v*1000, 20)}

# Not compared: rows whose `valuenum` is empty while `value` holds a number (the package reads those too; the demo has none for these items).
@demo
@pytest.mark.parametrize('name', VITALS)
def test_hourly_vital_signs_equal_pandas(name, mimic, charted):
    items, low, high, convert, least = VITALS[name]
    assert same_cells(mimic[0], name, grid(charted, items, low, high, convert)) >= least

@demo
@pytest.mark.parametrize('name', LABS)
def test_hourly_laboratory_values_equal_pandas(name, mimic, measured):
    items, low, high, convert, least = LABS[name]
    expected = grid(measured, items, low, high, convert)
    if name == 'mg': expected = (expected/(2/24.305*10)*0.8229).round(6) # the dictionary's factor has four digits
    assert same_cells(mimic[0], name, expected) >= least

@demo
def test_the_comparison_would_notice_a_wrong_hour_range_or_mean(mimic, charted):
    items, low, high, convert, _ = VITALS['hr']
    shifted = charted.assign(charttime=charted.charttime + np.timedelta64(20, 'm'))
    exclusive = VITALS['o2sat'][:1] + (1, 99.9, as_is)
    for name,rows,spec in (('hr', shifted, (items, low, high, convert)), ('o2sat', charted, exclusive), ('hr', charted, (items, low, high, lambda v, u: v + 1))):
        with pytest.raises(AssertionError): same_cells(mimic[0], name, grid(rows, *spec))

# ---- the same people in the layout of K-MIMIC -----------------------------------------------------------------------
SHIFT = np.timedelta64(317_030, 'D') # 868 years of 365.2425 days: 2150 becomes 3018
KOREAN = {'bpm': '회/min', 'insp/min': '회/min', '°F': '℉', '°C': '℃', 'mg/dL': '㎎/㎗', 'K/uL': '×10³/㎕', 'm/uL': '×10⁶/㎕', 'ml': 'cc', 'mL': '㏄',
          'mm Hg': 'mmHg', 'IU/L': 'U/L', 'mEq/L': 'mEq/ℓ'}

def places():
    "For each item of MIMIC-IV that has a concept in both sources: concept, unit, K-MIMIC table and label (the labels are used in turn)."
    korean = {c.name: [(b.table, i) for b in c.bindings for i in b.ids] for c in load_concepts('kmimic')}
    items = [(c, b, i) for c in load_concepts('mimiciv') if c.name in korean for b in c.bindings for i in b.ids]
    turn = {}
    for c,b,i in items:
        k = turn[c.name] = turn.get(c.name, -1) + 1
        table, label = korean[c.name][k % len(korean[c.name])]
        yield dict(itemid=i, concept=c.name, agg=c.agg, unit=c.unit, charted=b.unit, source=b.table, table=table, label=label)

class Rewrite:
    "The MIMIC-IV demo written as a K-MIMIC registry; some people live `SHIFT` later."
    def __init__(self, root, later=()):
        self.root, self.later, self.map = Path(root), set(later), pd.DataFrame(places())
        self.stays = all_stays()
        self.people(), self.codes(), self.readings(), self.volumes(), self.drugs(), self.dictionaries()

    def when(self, frame, column, form=' '):
        "A time as text, shifted for some people; three text forms."
        t = frame[column].astype('datetime64[us]')
        t = t.where(~frame.subject_id.isin(self.later), t + SHIFT)
        text = np.datetime_as_string(t.to_numpy(), unit='us' if form == '.' else 's')
        return pd.Series(text, frame.index).str.replace('T', 'T' if form == 'T' else ' ').where(t.notna(), '')

    def write(self, name, frame, stay='stay_id', parquet=False):
        frame = frame.copy()
        for c,letter in (('subject_id', 'P'), ('hadm_id', 'H'), ('stay_id', 'S')): # ids are text
            if c in frame: frame[c] = (f'{letter}-' + frame[c].astype('string') + '-kr').fillna('')
        frame = frame.rename(columns=dict(stay_id=stay))
        path = self.root/f'{name}.csv'
        path.parent.mkdir(parents=True, exist_ok=True)
        if parquet: frame.astype('string').to_parquet(path.with_suffix('.parquet'))
        else: frame.to_csv(path, index=False)

    def people(self):
        p = raw('hosp/patients', ['subject_id', 'gender', 'anchor_age', 'anchor_year'], ['dod'])
        year = pd.to_numeric(p.anchor_year) + 868*p.subject_id.isin(self.later)
        dod = self.when(p, 'dod').str[:10]
        self.write('hosp/patients', pd.DataFrame(dict(subject_id=p.subject_id, sex=p.gender, anchor_age=p.anchor_age + ' years, 3 months, 5 days',
                                                      anchor_year=year, dod=dod)))
        words = ['admission_type', 'discharge_location', 'insurance', 'marital_status', 'hospital_expire_flag']
        a = raw('hosp/admissions', ['subject_id', 'hadm_id', *words], ['admittime', 'dischtime', 'deathtime'])
        for t in ('admittime', 'dischtime', 'deathtime'): a[t] = self.when(a, t, 'T')
        self.write('hosp/admissions', a.assign(icu_expire_flag=a.hospital_expire_flag, nationality='Korea', hospital_id='001'))
        t = raw('hosp/transfers', ['subject_id', 'hadm_id', 'eventtype', 'careunit'], ['intime', 'outtime'])
        self.write('hosp/transfers', t.assign(intime=self.when(t, 'intime'), outtime=self.when(t, 'outtime')))
        self.write('icu/icustays', self.stays.assign(intime=self.when(self.stays, 'intime', '.'), outtime=self.when(self.stays, 'outtime', 'T')))

    def codes(self):
        "K-MIMIC gives codes per ICU stay and writes ICD-10 with a dot."
        for name in ('diagnoses_icd', 'procedures_icd'):
            d = raw(f'hosp/{name}', ['subject_id', 'hadm_id', 'icd_code', 'icd_version']).merge(self.stays[['hadm_id', 'stay_id']], on='hadm_id')
            ten = d.icd_version == '10'
            dotted = d.icd_code.str[:3] + '.' + d.icd_code.str[3:]
            diagnosis = name == 'diagnoses_icd'
            self.write(f'hosp/{name}', d.assign(icd_code=d.icd_code.where(~ten | ~np.bool_(diagnosis), dotted).str.rstrip('.'),
                                                icd_version=np.where(ten, 'KCD8' if diagnosis else 'ICD10PCS', 'ICD9CM')))

    def rows(self, source, columns, times):
        r = raw(f'icu/{source}' if source != 'labevents' else 'hosp/labevents', columns, times)
        return r.merge(self.map[self.map.source == source], 'left', on='itemid')

    def readings(self):
        "Charts, laboratory values and outputs; a few concepts stand in another table than in MIMIC-IV. Rows of no shared concept stay in their table."
        columns = ['subject_id', 'hadm_id', 'itemid', 'value', 'valueuom']
        parts = {s: self.rows(s, columns + (['stay_id'] if s != 'labevents' else []) + (['valuenum'] if s != 'outputevents' else []), ['charttime'])
                 for s in ('chartevents', 'labevents', 'outputevents')}
        parts['chartevents'] = parts['chartevents'].pipe(lambda d: d[d.concept.notna() | (np.arange(len(d)) % 20 == 0)]) # some unmapped rows are enough
        lab = parts['labevents'].dropna(subset='charttime').sort_values('charttime')
        begun = self.stays[['subject_id', 'stay_id', 'intime']].sort_values('intime')
        parts['labevents'] = pd.merge_asof(lab, begun, left_on='charttime', right_on='intime', by='subject_id').drop(columns='intime')
        r = pd.concat([p.assign(table=p.table.fillna(s)) for s,p in parts.items()])
        r['valueuom'] = r.valueuom.where(r.valueuom.notna() & (r.valueuom.str.strip() != ''), r.charted).replace(KOREAN)
        for table,form in (('chartevents', ' '), ('labevents', 'T'), ('outputevents', '.')):
            d = r[r.table == table]
            names = ['subject_id', 'hadm_id', 'stay_id', 'charttime', 'itemid', 'value', 'valueuom'] + ['valuenum']*(table != 'outputevents')
            self.write(f'{"hosp" if table == "labevents" else "icu"}/{table}', d.assign(charttime=self.when(d, 'charttime', form))[names],
                       stay='icustay_id' if table == 'outputevents' else 'stay_id', parquet=table == 'chartevents')

    def volumes(self):
        columns = ['subject_id', 'hadm_id', 'stay_id', 'itemid', 'patientweight']
        for source,more,stay in (('inputevents', ['amount', 'amountuom'], 'icustay_id'), ('procedureevents', [], 'stay_id')):
            d = self.rows(source, columns + more, ['starttime', 'endtime'])
            if more: d['amountuom'] = d.amountuom.replace(KOREAN)
            d = d.assign(starttime=self.when(d, 'starttime'), endtime=self.when(d, 'endtime', 'T'))
            self.write(f'icu/{source}', d[[*columns, *more, 'starttime', 'endtime']], stay=stay)

    def drugs(self):
        "Every infusion row becomes an order of its own: a start note with its rate in free text, and a stop."
        d = self.rows('inputevents', ['subject_id', 'hadm_id', 'stay_id', 'itemid', 'patientweight', 'rate', 'rateuom', 'orderid'], ['starttime', 'endtime'])
        d = d[(d['agg'] == 'rate') & d.rate.notna() & (d.endtime > d.starttime)].drop_duplicates(['stay_id', 'itemid', 'starttime', 'endtime', 'rate'])
        rate, weighed = pd.to_numeric(d.rate), d.rateuom.str.contains('kg') & ~d.unit.str.contains('kg') # norepinephrine: mcg/min in K-MIMIC
        rate = rate.where(~weighed, rate*pd.to_numeric(d.patientweight))
        unit = d.rateuom.where(~weighed, d.rateuom.str.replace('/kg', ''))
        note = 'iv ' + rate.map('{:.9f}'.format) + np.where(np.arange(len(d)) % 2, ' ', '') + unit + ' 로 유지'
        both = pd.concat([d.assign(event_txt='start', note_txt=note, charttime=d.starttime), d.assign(event_txt='stop', note_txt='', charttime=d.endtime)])
        both = both.assign(emar_id=[f'e{k}' for k in range(len(both))], emar_seq=np.arange(len(both)), emar_type='Note', pharmacy_id=np.tile(np.arange(len(d)), 2),
                           medication=both.label, itemid='', charttime=self.when(both, 'charttime'))
        keys = ['subject_id', 'hadm_id', 'stay_id', 'emar_id', 'emar_seq', 'emar_type', 'pharmacy_id']
        self.write('hosp/emar', both[[*keys, 'itemid', 'charttime', 'medication', 'event_txt']])
        self.write('hosp/emar_detail', both[[*keys, 'note_txt']].assign(infusion_rate_hr='', infusion_rate_min=''))

    def dictionaries(self):
        "Labels as K-MIMIC writes them; items of no shared concept keep an English name."
        items = raw('icu/d_items', ['itemid', 'label', 'linksto', 'category']).rename(columns=dict(label='english'))
        labs = raw('hosp/d_labitems', ['itemid', 'label']).rename(columns=dict(label='english'))
        every = pd.concat([items.assign(home='icu'), labs.assign(home='hosp')]).merge(self.map[['itemid', 'label', 'table']], 'left', on='itemid')
        every['home'] = every.table.map(lambda t: 'hosp' if t == 'labevents' else 'icu', na_action='ignore').fillna(every.home)
        every = every.assign(label=every.label.fillna('unmapped > ' + every.english))
        self.write('icu/d_items', every[(every.home == 'icu') & (every.table != 'emar')][['itemid', 'label', 'category', 'linksto']])
        self.write('hosp/d_labitems', every[every.home == 'hosp'][['itemid', 'label']].assign(edi_code=''))

@pytest.fixture(scope='module')
def korea(tmp_path_factory):
    if not DEMO.is_dir(): pytest.skip('the MIMIC-IV demo is not beside the project')
    root = tmp_path_factory.mktemp('korea')
    Rewrite(root)
    return root, load_cohort('kmimic', root, cfg=DataConfig(**OPTIONS))

def shared(a, b, part): return sorted(set(a.schema.names(part)) & set(b.schema.names(part)))

@demo
def test_the_korean_layout_has_the_same_stays_outcomes_and_lengths(mimic, korea):
    a, b = mimic[0], korea[1][0]
    assert [f'S-{s}-kr' for s in a.stay_id] == list(b.stay_id) and [f'P-{s}-kr' for s in a.subject_id] == list(b.subject_id)
    assert (a.outcome == b.outcome).all() and (a.length == b.length).all() and a.schema.outcomes == b.schema.outcomes
    assert len(a) == 122 and len(set(a.outcome)) == 3 and b.schema.origin == 'restricted'

# Shared concepts only: what MIMIC-IV alone charts (boluses, sedation scores, set volumes) has no label in K-MIMIC, and Korean products no item in MIMIC-IV.
@demo
def test_the_korean_layout_has_the_same_hourly_values(mimic, korea):
    a, b = mimic[0], korea[1][0]
    names = shared(a, b, 'values')
    groups = pd.Series([b.schema.feature(n).group for n in names]).value_counts()
    assert len(names) > 70 and set(groups.index) == {'vital', 'ventilator', 'score', 'lab', 'output', 'intake', 'infusion'} and groups['infusion'] >= 7
    for n in names:
        x, y = a.value(n), b.value(n)
        assert (np.isnan(x) == np.isnan(y)).all(), f'{n}: {np.sum(~np.isnan(x))} cells in one, {np.sum(~np.isnan(y))} in the other'
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6, err_msg=n)
        assert a.schema.feature(n) == b.schema.feature(n)

@demo
def test_the_korean_layout_has_the_same_flags_and_states(mimic, korea):
    a, b = mimic[0], korea[1][0]
    flags, states = shared(a, b, 'flags'), shared(a, b, 'states')
    assert len(flags) >= 2 and sum(a.flag(n).sum() for n in flags) > 50 and set(states) == {'vent_mode', 'careunit'}
    for n in flags: assert (a.flag(n) == b.flag(n)).all(), n
    for n in states:
        x, y = (np.array([*c.schema.feature(n).levels, ''])[c.state(n)] for c in (a, b))
        assert (x == y).all() and (x != '').any(), n

# Weight: the Korean layout has no charted admission weights, so a stay without any infusion may lack it there; where it has one, it is the same.
@demo
def test_the_korean_layout_has_the_same_static_columns(mimic, korea):
    a, b = mimic[0].static, korea[1][0].static
    names = sorted(set(a) & set(b))
    assert {'age', 'sex', 'los', 'admission_type', 'insurance', 'marital_status', 'discharge_location', 'first_careunit', 'weight'} <= set(names)
    assert {n for n in a if n[:3] in ('dx_', 'dx9', 'px_', 'px9')} == {n for n in b if n[:3] in ('dx_', 'dx9', 'px_', 'px9')} and len(names) > 200
    for n in names:
        if n == 'weight':
            assert b[n].notna().sum() > 100
            np.testing.assert_allclose(a[n][b[n].notna()], b[n].dropna(), rtol=1e-6)
        elif pd.api.types.is_numeric_dtype(a[n]): np.testing.assert_allclose(a[n], b[n], rtol=1e-6, err_msg=n)
        else: assert a[n].astype(object).where(a[n].notna(), '').tolist() == b[n].astype(object).where(b[n].notna(), '').tolist(), n

# Infusions are left out: one row of MIMIC-IV is two notes there. Dropped rows differ by reason: a laboratory row before the first stay has no stay id.
@demo
def test_the_korean_layout_keeps_the_same_rows_of_each_concept(mimic, korea):
    kept = [r.table[(r.table.stage == 'events') & (r.table.reason == KEPT)].groupby('item').rows.sum() for _,r in (mimic, korea[1])]
    names = [c.name for c in load_concepts('kmimic') if c.agg != 'rate' and c.name in kept[0]]
    assert len(names) > 70 and kept[0][names].sum() > 40_000
    assert kept[0][names].to_dict() == kept[1].reindex(names).to_dict()
    root, (_, report) = korea
    files = {'hosp/labevents': 'labevents.csv', 'hosp/emar': 'emar.csv'}
    for table,name in files.items(): assert report.rows_read[table] == len(pd.read_csv(root/'hosp'/name, usecols=['itemid'], dtype=str))

@demo
def test_the_year_3021_changes_nothing(korea, tmp_path):
    "Every third person lives 868 years later; 64-bit nanoseconds end in 2262."
    s = all_stays()
    away = s.groupby('subject_id').intime.apply(lambda t: t.dt.day_of_year.between(5, 360).all()) # ages count calendar years: keep clear of New Year
    Rewrite(tmp_path, later=away.index[away][::3])
    years = pd.read_csv(tmp_path/'icu'/'icustays.csv', dtype=str).intime.str[:4].astype(int)
    assert years.max() >= 3021 and years.min() < 2262 and (years > 2262).sum() > 30
    (a, r), (b, q) = korea[1], load_cohort('kmimic', tmp_path, cfg=DataConfig(**OPTIONS))
    assert a.fingerprint() == b.fingerprint() and a.schema == b.schema and r.table.equals(q.table)
    for x,y in ((a.values, b.values), (a.flags, b.flags), (a.states, b.states), (a.length, b.length), (a.outcome, b.outcome)): np.testing.assert_array_equal(x, y)
    pd.testing.assert_frame_equal(a.static, b.static)

# ---- Challenge 2012 -------------------------------------------------------------------------------------------------
def mean(g): return g.value.mean()
def total(g): return g.value.sum()
def last(g): return g.sort_values(['minute', 'value']).groupby(['stay', 'hour']).value.last()

PARAMETERS = { # parameter -> concept, range, factor, how an hour is formed
    'HR': ('hr', 1, 300, 1, mean), 'Temp': ('temp', 25, 43, 1, mean), 'FiO2': ('fio2', 20, 100, 100, mean), 'Urine': ('urine', 0, 10_000, 1, total),
    'GCS': ('tgcs', 3, 15, 1, last), 'Creatinine': ('crea', 0.01, 30, 1, mean), 'SysABP': ('sbp_art', 1, 350, 1, mean)}

@pytest.fixture(scope='module')
def set_a(tmp_path_factory):
    if not CHALLENGE.is_dir(): pytest.skip('Challenge 2012 is not beside the project')
    root = tmp_path_factory.mktemp('challenge')
    (root/'set-a.tar.xz').symlink_to(CHALLENGE/'set-a.tar.xz')
    with tarfile.open(CHALLENGE/'set-a.tar.xz') as t:
        texts = {Path(m.name).stem: t.extractfile(m).read().decode() for m in t if m.isfile() and Path(m.name).stem.isdigit()}
    text = '\n'.join(f'{k},{line}' for k,x in texts.items() for line in x.splitlines()[1:])
    lines = pd.read_csv(io.StringIO(text), header=None, names=['stay', 'time', 'parameter', 'value'], dtype=dict(stay=str, time=str))
    clock = lines.time.str.split(':', expand=True).astype(int)
    return load_cohort('challenge2012', root, cfg=DataConfig(**(OPTIONS | dict(hours=48, min_hours=1)))), lines.assign(minute=clock[0]*60 + clock[1])

# Not compared: the descriptors at 00:00 (they are static), and the length of a stay, which is defined by its last line.
@challenge
@pytest.mark.parametrize('parameter', PARAMETERS)
def test_hourly_values_of_challenge_2012_equal_pandas(parameter, set_a):
    (c, _), lines = set_a
    name, low, high, factor, form = PARAMETERS[parameter]
    r = lines[(lines.parameter == parameter) & (lines.value != -1) & (lines.minute < 48*60)]
    r = r.assign(value=r.value*factor, hour=r.minute//60).drop_duplicates(['stay', 'minute', 'value'])
    r = r[(r.value >= low - 1e-9) & (r.value <= high + 1e-9)]
    g = r.groupby(['stay', 'hour'])
    expected = last(r) if form is last else form(g)
    at = {s: i for i,s in enumerate(c.stay_id)}
    expected = expected[(expected <= high + 1e-9) & np.array([s in at for s,_ in expected.index])]
    want = np.full((len(c), 48), np.nan)
    want[[at[s] for s,_ in expected.index], [h for _,h in expected.index]] = expected
    got = c.value(name).astype(float)
    assert len(expected) > 10_000 and (np.isnan(got) == np.isnan(want)).all()
    np.testing.assert_allclose(got, want, rtol=2e-6)

@challenge
def test_every_line_of_challenge_2012_is_counted(set_a):
    (c, report), lines = set_a
    assert sum(report.dropped('lines').values()) == report.rows_read['lines'] == len(lines)
    assert sum(report.dropped('stays').values()) == lines.stay.nunique() == 4000 and report.dropped('outcomes') == {KEPT: 4000}
    unknown = (lines.value == -1).sum() + lines.value.isna().sum()
    assert report.dropped('lines')['no number'] == unknown

@challenge
@pytest.mark.parametrize('share', [0.01, 0.5, 0.999])
def test_a_truncated_archive_of_challenge_2012_is_an_error(tmp_path, share):
    whole = (CHALLENGE/'set-a.tar.xz').read_bytes()
    (tmp_path/'set-a.tar.xz').write_bytes(whole[:int(share*len(whole))])
    with pytest.raises(DataError, match='cut off or damaged'): load_cohort('challenge2012', tmp_path)

def small_set(folder, name, records):
    (folder/name).mkdir(parents=True)
    for r in records:
        rows = ''.join(f'{h:02d}:10,HR,{70 + h}\n' for h in range(20))
        (folder/name/f'{r}.txt').write_text(f'Time,Parameter,Value\n00:00,RecordID,{r}\n00:00,Age,60\n00:00,Gender,1\n{rows}')
    deaths = ''.join(f'{r},1,1,5,-1,{r % 2}\n' for r in records)
    (folder/f'Outcomes-{name[4]}.txt').write_text(f'RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n{deaths}')

def test_sets_a_b_and_c_join_from_folders_and_archives(tmp_path):
    for name,records in (('set-a', (10, 11)), ('set-b', (20, 21)), ('set-c', (30, 31))): small_set(tmp_path, name, records)
    (tmp_path/'set-a'/'README.txt').write_text('not a stay')
    (tmp_path/'notes').mkdir()
    options = ['data.min_people=1']
    c, report = load_cohort('challenge2012', tmp_path, options)
    assert list(c.stay_id) == ['10', '11', '20', '21', '30', '31'] and c.outcome.tolist() == [0, 1]*3 and report.dropped('outcomes') == {KEPT: 6}
    for name,ending,mode in (('set-a', '.tar', 'w'), ('set-b', '.tgz', 'w:gz')): # the Outcomes file stays beside the archive
        with tarfile.open(tmp_path/f'{name}{ending}', mode) as t: t.add(tmp_path/name, name)
        with pytest.raises(DataError, match='the set exists twice'): load_cohort('challenge2012', tmp_path, options)
        shutil.rmtree(tmp_path/name)
    shutil.make_archive(str(tmp_path/'set-c'), 'zip', tmp_path, 'set-c')
    shutil.rmtree(tmp_path/'set-c')
    assert load_cohort('challenge2012', tmp_path, options)[0].fingerprint() == c.fingerprint()

def test_odd_sets_of_challenge_2012_are_errors(tmp_path):
    small_set(tmp_path, 'set-a', (10, 11))
    small_set(tmp_path, 'set-b', (11, 12))
    with pytest.raises(DataError, match='stay 11 stands in two sets'): load_cohort('challenge2012', tmp_path)
    (tmp_path/'Outcomes-b.txt').unlink()
    with pytest.raises(DataError, match='no Outcomes file in the set.*Outcomes-b.txt'): load_cohort('challenge2012', tmp_path)
    shutil.rmtree(tmp_path/'set-b')
    (tmp_path/'set-a'/'10.txt').write_text('00:00,HR,80\n')
    with pytest.raises(DataError, match='10.txt does not begin with'): load_cohort('challenge2012', tmp_path)
    for rows in ('00:00,HR,80,more\n', '00:00,HR,80\n00:00,HR,80,more,and,more\n', '00:00,HR,80,more,and,more\n00:00,HR,80\n'):
        (tmp_path/'set-a'/'10.txt').write_text(f'Time,Parameter,Value\n{rows}')
        with pytest.raises(DataError, match='a line (has more than|is not) Time,Parameter,Value'): load_cohort('challenge2012', tmp_path)
    (tmp_path/'Outcomes-a.txt').write_text('RecordID\n10\n')
    (tmp_path/'set-a'/'10.txt').write_text('Time,Parameter,Value\n00:00,HR,80\n')
    with pytest.raises(DataError, match='column Length_of_stay'): load_cohort('challenge2012', tmp_path)
