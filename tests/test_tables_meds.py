"Tables of one's own, and MEDS: by hand, by property, and on the open demo against its other form."
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synkmimic.config import compose
from synkmimic.core import ConfigError, DataError
from synkmimic.sources.extract import KEPT, DataConfig
from synkmimic.sources.files import connect
from synkmimic.sources.load import READERS, data_config, load_cohort
from synkmimic.sources.meds import Meds, meds_origin

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'
DEMO, MEDS = DATA/'mimic-iv-demo-2.2', DATA/'mimic-iv-demo-meds-0.0.1'
demo = pytest.mark.skipif(not (DEMO.is_dir() and MEDS.is_dir()),
                          reason='the MIMIC-IV demo is not beside the project in both forms')
LOOSE = dict(min_people=1, min_hours=0, los_low=0, los_high=1e6, age_low=0, age_high=150)

# ---- two tables of one's own ----------------------------------------------------------------------------------------
STAYS = pd.DataFrame(dict(stay_id=['a', 'b'], subject_id=['p', 'q'], outcome=['0', '1'], length_hours=['30', '20']))
EVENTS = pd.DataFrame([('a', '0.5', 'hr', '80'), ('b', '1.5', 'hr', '90.5')],
                      columns=['stay_id', 'hour', 'variable', 'value'])

def put(root, stays=STAYS, events=EVENTS, schema=None, form='csv'):
    root.mkdir(parents=True, exist_ok=True)
    for name,t in dict(stays=stays, events=events).items():
        if form == 'parquet': pq.write_table(pa.Table.from_pandas(t, preserve_index=False), root/f'{name}.parquet')
        else: t.to_csv(root/f'{name}.{form}', index=False)
    if schema: (root/'schema.toml').write_text(schema, encoding='utf-8')
    return root

def tables(root, stays=STAYS, events=EVENTS, schema=None, form='csv', **options):
    return load_cohort('tables', put(root, stays, events, schema, form), cfg=DataConfig(**LOOSE | options))

def rows(*r): return pd.DataFrame(r, columns=EVENTS.columns).astype(str)
def first(c, name, n=4, i=0): return np.nan_to_num(c.value(name)[i, :n].astype(float), nan=-1).round(4).tolist()

def test_the_three_forms_of_a_file_are_one(tmp_path):
    prints = {form: tables(tmp_path/form.replace('.', '_'), form=form)[0].fingerprint()
              for form in ('csv', 'csv.gz', 'parquet')}
    assert len(set(prints.values())) == 1, prints

def test_typed_parquet_equals_text(tmp_path):
    stays = STAYS.assign(stay_id=[7., 8.], outcome=[0, 1], length_hours=[30, 20], age=[61, 70])
    events = EVENTS.assign(stay_id=[7., 8.], hour=[0.5, 1.5], value=np.array([80, 90.5], 'float32'))
    a, report = tables(tmp_path/'typed', stays, events, form='parquet')
    b, _ = tables(tmp_path/'text', stays, events)
    assert a.stay_id.tolist() == ['7', '8'] and a.fingerprint() == b.fingerprint()
    assert report.dropped('events') == {KEPT: 2} # ids with `.0` tails found their stays

def test_hourly_values_equal_pandas(tmp_path):
    g, n = np.random.default_rng(0), 4000
    stays = pd.DataFrame(dict(stay_id=np.arange(40), subject_id=np.arange(40)//2, outcome=np.arange(40) % 2,
                              length_hours=g.integers(5, 40, 40)))
    e = pd.DataFrame(dict(stay_id=g.integers(0, 44, n), hour=g.uniform(-2, 45, n).round(3),
                          variable=g.choice(['hr', 'lact', 'volume'], n), value=g.normal(50, 20, n).round(2)))
    e = pd.concat([e, e.head(50)])
    c, report = tables(tmp_path, stays, e, '[volume]\nagg = "sum"\nunit = "mL"\n[lact]\nagg = "last"\n', hours=30,
                       at_precision=False)
    inside = e.drop_duplicates().merge(stays, on='stay_id')
    inside = inside[(inside.hour >= 0) & (inside.hour < inside.length_hours) & (inside.hour < 30)]
    inside = inside.sort_values(['hour', 'value']).assign(step=inside.hour.astype(int))
    place = pd.Index(c.stay_id)
    for name,how in dict(hr='mean', volume='sum', lact='last').items():
        want = np.full((len(c), 30), np.nan)
        f = inside[inside.variable == name].groupby(['stay_id', 'step']).value.agg(how)
        want[place.get_indexer(f.index.get_level_values(0).astype(str)), f.index.get_level_values(1)] = f
        assert (np.isnan(want) == np.isnan(c.value(name))).all(), name
        assert np.allclose(want, c.value(name), rtol=1e-6, equal_nan=True), name
    assert report.rows_read['events'] == len(e) and report.rows_read['stays'] == 40
    known = e.stay_id < 40
    assert report.dropped('events')['stay unknown'] == (~known).sum()
    assert report.dropped('events')['before admission'] == (known & (e.hour < 0)).sum()

VALUE = st.one_of(st.sampled_from(['', 'NA', 'x', '0', '1', '-3.5', '1e5', 'inf', 'nan']),
                  st.floats(-1e6, 1e6).map(lambda v: repr(round(v, 3))))
HOUR = st.sampled_from(['0', '0.99', '1', '-1', '29.99', '31', '', 'soon', 'nan', '1e300', '-1e300'])
ROW = st.tuples(st.sampled_from(['a', 'b', 'c', '']), HOUR, st.sampled_from(['hr', 'mode', 'x', '']), VALUE)

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, max_size=30))
def test_every_row_is_kept_or_has_a_reason(tmp_path, drawn):
    events = pd.concat([EVENTS, rows(*drawn)]) if drawn else EVENTS
    events = pd.concat([events, rows(('a', 1, 'number', 80))])
    c, report = tables(tmp_path, events=events)
    assert report.rows_read['events'] == len(events) and report.rows_read['stays'] == 2
    assert 'out of range' not in report.dropped('events'), 'an automatic range drops nothing'
    for f in c.schema.values:
        v = c.value(f.name)[~np.isnan(c.value(f.name))]
        assert f.low <= 0 and (v >= f.low).all() and (v <= f.high).all()

@pytest.mark.parametrize('values,kind', [
    (['0', '1', '1'], 'flag'), (['0', '1', '2'], 'numerical'), (['36.6', '-1', '1e2'], 'numerical'),
    (['1', '2', 'high'], 'categorical'), (['1', '', 'NA'], 'flag'), (['2', '', 'nan'], 'numerical')])
def test_kinds(tmp_path, values, kind):
    events = pd.concat([EVENTS, rows(*(('a', k, 'v', x) for k,x in enumerate(values)))])
    c, _ = tables(tmp_path, events=events)
    assert c.schema.feature('v').kind == kind

def test_a_category_needs_people_not_rows(tmp_path):
    stays = pd.DataFrame(dict(stay_id=[f's{k}' for k in range(40)], subject_id=[f'p{k//2}' for k in range(40)],
                              outcome=0, length_hours=20, place=['ward']*24 + ['home']*6 + [f'x{k}' for k in range(10)],
                              note=[f'text {k}' for k in range(40)]))
    often = [(f's{k}', h, 'mode', 'rare' if k < 4 else 'usual') for k in range(40) for h in range(10)]
    often += [(f's{k}', 1, 'hr', 80) for k in range(40)]
    c, report = tables(tmp_path, stays, rows(*often), min_people=5)
    assert c.schema.feature('mode').levels == ('usual',) # `rare`: 40 rows of two people
    assert report.dropped('events') == {KEPT: 400, 'unknown level': 40}
    assert c.schema.feature('place').levels == ('ward', 'Other')
    assert 'note' not in c.static
    assert report.table[report.table.item == 'note'].reason.tolist() == ['no level in enough people']

def test_a_stray_word_is_reported(tmp_path):
    events = rows(*(('a', k, 'lact', k + 2) for k in range(9)), ('a', 9, 'lact', 'hemolysed'), ('b', 1, 'hr', 80))
    _, report = tables(tmp_path, events=events)
    t = report.table[(report.table.stage == 'types') & (report.table['item'] == 'lact')]
    assert t.reason.tolist() == ['categorical, though most values are numbers'] and t.rows.tolist() == [1]
    c, report = tables(tmp_path, events=events, schema='[lact]\nkind = "numerical"')
    assert c.schema.feature('lact').kind == 'numerical' and report.dropped('events')['no number'] == 1

def test_a_given_range_drops_and_an_automatic_one_does_not(tmp_path):
    events = pd.concat([EVENTS, rows(('a', 2, 'hr', 99999), *(('a', 3 + k/200, 'hr', 80) for k in range(150)))])
    c, report = tables(tmp_path, events=events)
    assert first(c, 'hr', 3)[2] == 99999 and c.schema.feature('hr').high == 100000
    far = report.table[report.table.stage == 'ranges']
    assert far.rows.tolist() == [1] and far.reason.tolist() == ['far from the rest, kept']
    c, report = tables(tmp_path, events=events, schema='[hr]\nlow = 0\nhigh = 300')
    assert first(c, 'hr', 3)[2] == -1 and report.dropped('events')['out of range'] == 1
    assert c.schema.feature('hr').high == 300

def test_the_charting_step_is_the_one_seen(tmp_path):
    g = np.random.default_rng(1)
    steps = dict(whole=1., tenth=0.1, cent=0.01, ten=10.)
    e = [('a', h/10, name, repr(round(round(g.uniform(1, 99))*s, 6))) for name,s in steps.items() for h in range(90)]
    c, _ = tables(tmp_path, events=rows(*e, ('b', 1, 'whole', 3)))
    assert {k: c.schema.feature(k).precision for k in steps} == pytest.approx(steps)

def test_a_rate_holds_until_the_next_reading(tmp_path):
    events = rows(('a', 0.5, 'ne', 6), ('a', 2, 'ne', 0), ('a', 3, 'ne', 12), ('b', 1, 'hr', 80))
    toml = '[ne]\nunit = "mcg/min"\nagg = "rate"'
    c, report = tables(tmp_path, events=events, schema=toml)
    assert first(c, 'ne', 5) == [3, 6, 0, 12, 12] and c.value('ne')[0, 29] == 0 # after carry_hours
    assert (c.value('ne')[1, :20] == 0).all() and np.isnan(c.value('ne')[1, 20:]).all()
    c, _ = tables(tmp_path, events=events, schema=toml, carry_hours=1)
    assert first(c, 'ne', 5) == [3, 3, 0, 12, 0]
    assert report.rows_read['events'] == 4

def test_a_zero_does_not_set_a_flag(tmp_path):
    events = pd.concat([EVENTS, rows(('a', 1, 'xray', 0), ('a', 2, 'xray', 1), ('a', 3.1, 'xray', 1),
                                     ('a', 3.2, 'xray', 0), ('b', 1, 'xray', 0))])
    c, report = tables(tmp_path, events=events)
    assert c.flag('xray')[0, :5].tolist() == [0, 0, 1, 1, 0] and c.flag('xray')[1].sum() == 0
    assert report.dropped('events') == {KEPT: 7}
    c, report = tables(tmp_path, events=pd.concat([events, rows(('a', 5, 'xray', 2))]), schema='[xray]\nkind = "flag"')
    assert c.flag('xray')[0, 5] == 0 and report.dropped('events')['out of range'] == 1

def test_static_columns(tmp_path):
    stays = STAYS.assign(hadm_id=['1', '2'], age=['61', '70.5'], sex=['F', 'M'], los=['1.2', '0.8'], dx_i50=['1', '0'],
                         discharge_place=['home', 'ward'], nationality=['Korea', 'Chad'], race=['x', 'y'], known=['1', ''])
    c, report = tables(tmp_path, stays)
    found = {f.name: (f.kind, f.role, f.group) for f in c.schema.static}
    assert found == dict(age=('numerical', 'admission', ''), sex=('categorical', 'admission', ''),
                         los=('numerical', 'discharge', ''), dx_i50=('flag', 'discharge', 'diagnosis'),
                         discharge_place=('categorical', 'discharge', ''), known=('categorical', 'admission', ''))
    left = report.table[report.table.stage == 'static'].set_index('item').reason.to_dict()
    assert left == dict(hadm_id='identifier, left out', nationality='sensitive, left out', race='sensitive, left out')
    c, _ = tables(tmp_path, stays, nationality='two_levels')
    assert c.static.nationality.tolist() == ['domestic', 'foreign']
    c, report = tables(tmp_path, stays, schema='[age]\nhigh = 65\nrole = "discharge"\n[hadm_id]\nkind = "categorical"')
    assert c.schema.feature('age').role == 'discharge' and np.isnan(c.static.age[1]) and 'hadm_id' in c.static
    assert report.table[report.table['item'] == 'age'].reason.tolist() == ['out of range']

def test_length_from_the_last_event(tmp_path):
    events = pd.concat([EVENTS, rows(('a', -4, 'hr', 70), ('a', 11.999, 'hr', 81))])
    c, report = tables(tmp_path, STAYS.drop(columns='length_hours'), events)
    assert c.length.tolist() == [12, 2] and report.dropped('events')['before admission'] == 1
    c, _ = tables(tmp_path/'half', STAYS.drop(columns='length_hours'), events, grid_hours=0.5)
    assert c.length.tolist() == [24, 4] and c.schema.hours == 60

def test_the_window_may_be_the_whole_stay(tmp_path):
    c, _ = tables(tmp_path, events=pd.concat([EVENTS, rows(('a', 29.5, 'hr', 70))]), hours=0)
    assert c.schema.hours == 30 and c.value('hr')[0, 29] == 70

def test_stays_that_are_dropped_are_counted(tmp_path):
    stays = pd.concat([STAYS, pd.DataFrame(dict(
        stay_id=['c', 'd', 'e', None, 'g'], subject_id=['r', 's', 't', 'u', None], outcome=['', '1', '0', '0', '0'],
        length_hours=['20', '-3', 'long', '20', '20']))])
    events = pd.concat([EVENTS, rows(*((k, 1, 'hr', 80) for k in 'cdeg'))])
    c, report = tables(tmp_path, stays, events)
    assert c.stay_id.tolist() == ['a', 'b'] and report.rows_read['stays'] == 7
    assert report.dropped('stays') == {'no outcome': 1, KEPT: 2, 'leaves before it enters': 1,
                                       'no time of entry or leaving': 1, 'no stay or person id': 2}
    lost = report.dropped('events')
    assert lost[KEPT] == 2 and sum(lost.values()) == 6

def test_filters_apply_to_what_the_table_tells(tmp_path):
    stays = STAYS.assign(age=['10', '40'], length_hours=['300', '20'])
    events = rows(('a', 0.5, 'hr', 80), ('b', 1.5, 'hr', 90))
    with pytest.raises(DataError, match='no stay passes the filters'):
        tables(tmp_path, stays, events, age_low=50)
    c, report = tables(tmp_path, stays, events, los_high=10, age_low=15)
    assert c.stay_id.tolist() == ['b'] and report.dropped('events') == {KEPT: 1, 'stay filtered out': 1}

@pytest.mark.parametrize('origin', ['restricted', 'open', 'simulated'])
def test_origin_is_said_by_the_schema_file_only(tmp_path, origin):
    assert tables(tmp_path/'none')[0].schema.origin == 'restricted'
    assert tables(tmp_path, schema=f'origin = "{origin}"')[0].schema.origin == origin

BAD = {
    'no variable column': (dict(events=EVENTS.rename(columns=dict(variable='name'))), 'column variable'),
    'no subject column': (dict(stays=STAYS.drop(columns='subject_id')), 'column subject_id'),
    'unknown outcome': (dict(stays=STAYS.assign(outcome=['alive', '1'])), "unknown outcomes \\['alive'\\]"),
    'fourth class': (dict(stays=STAYS.assign(outcome=['3', '1'])), "unknown outcomes \\['3'\\]"),
    'stay twice': (dict(stays=pd.concat([STAYS, STAYS.head(1)])), 'a stay id repeats .*2 rows'),
    'two outcomes': (dict(stays=pd.concat([STAYS, STAYS.head(1).assign(outcome='1')])), 'a stay has two outcomes'),
    'reserved name': (dict(stays=STAYS.assign(length=['1', '2'])), 'cannot have this name'),
    'one name twice': (dict(stays=STAYS.assign(hr=['1', '2'])), 'have the same name'),
    'misspelt section': (dict(schema='[hrr]\nlow = 0'), "Did you mean 'hr'"),
    'misspelt key': (dict(schema='[hr]\nlo = 0'), "Did you mean 'low'"),
    'low above high': (dict(schema='[hr]\nlow = 5\nhigh = 4'), 'is above high'),
    'loose key': (dict(schema='unit = "x"'), 'stands outside a section'),
    'no toml': (dict(schema='[hr'), 'not valid TOML'),
    'odd origin': (dict(schema='origin = "mine"'), "origin 'mine'"),
    'rate of what': (dict(schema='[hr]\nagg = "rate"\nunit = "beats"'), 'needs a unit such as'),
    'no events at all': (dict(events=EVENTS.head(0)), 'no numerical variable is seen in 1 people'),
    'no event in the window': (dict(events=EVENTS.assign(hour='-1')), 'no numerical variable is seen'),
}

@pytest.mark.parametrize('case', BAD)
def test_bad_tables_are_one_clear_error(tmp_path, case):
    change, said = BAD[case]
    with pytest.raises(DataError, match=said): tables(tmp_path, **change)

def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match='the table is missing'): load_cohort('tables', tmp_path)
    many = pd.concat([EVENTS]*20000)
    put(tmp_path/'cut', events=many, form='csv.gz')
    whole = (tmp_path/'cut'/'events.csv.gz').read_bytes()
    (tmp_path/'cut'/'events.csv.gz').write_bytes(whole[:len(whole)//2])
    with pytest.raises(DataError, match='events'): load_cohort('tables', tmp_path/'cut', cfg=DataConfig(**LOOSE))
    put(tmp_path/'empty')
    (tmp_path/'empty'/'stays.csv').write_bytes(b'')
    with pytest.raises(DataError, match='the file is empty'): load_cohort('tables', tmp_path/'empty')
    put(tmp_path/'empty', form='parquet')
    with pytest.raises(DataError, match='the table exists twice'): load_cohort('tables', tmp_path/'empty')

@pytest.mark.parametrize('encoding', ['utf-8', 'cp949'])
def test_korean_text_in_both_encodings(tmp_path, encoding):
    put(tmp_path, STAYS.assign(place=['내과', '외과']), pd.concat([EVENTS, rows(('a', 1, '모드', '보조'))]))
    for f in tmp_path.glob('*.csv'): f.write_bytes(f.read_text(encoding='utf-8').encode(encoding))
    c, _ = load_cohort('tables', tmp_path, cfg=DataConfig(**LOOSE))
    assert c.schema.feature('모드').levels == ('보조',) and c.static.place.tolist() == ['내과', '외과']

# ---- the call and the configuration ---------------------------------------------------------------------------------
def test_sources_are_configured_and_known():
    for name in ('tables', 'meds'):
        assert compose([f'data={name}']).data.source == name and name in READERS
    with pytest.raises(ConfigError, match="'tables'"): load_cohort('table', '.')

def test_every_option_can_be_given_as_text():
    odd = dict(features='core', nationality='two_levels', code_group='chapter', grid_hours='0.5', death_hours='2.0', carry_hours='2.0')
    for f in dataclasses.fields(DataConfig):
        text = odd.get(f.name, dict(str='x', int='24', float='24', bool=str(not f.default).lower())[getattr(f.type, '__name__', f.type)])
        value = getattr(data_config([f'data.{f.name}={text}']), f.name)
        assert str(value).lower() in (text, f'{text}.0') and value != f.default, f.name

# ---- MEDS by hand ---------------------------------------------------------------------------------------------------
COLUMNS = dict(subject_id=pa.int64(), time=pa.timestamp('us'), code=pa.string(), numeric_value=pa.float32(),
               text_value=pa.string(), hadm_id=pa.int64(), icustay_id=pa.int64(), order_id=pa.int64(), unit=pa.string())
BORN = [(1, '2100-05-01', 'MEDS_BIRTH'), (1, None, 'GENDER//F')]
def visit(a, b, place='HOME', hadm=10, who=1):
    return [(who, a, 'HOSPITAL_ADMISSION//URGENT//ER', None, None, hadm),
            (who, b, f'HOSPITAL_DISCHARGE//{place}', None, None, hadm)]
def icu(a, b, stay=100, hadm=10, who=1):
    return [(who, a, 'ICU_ADMISSION//MICU', None, None, hadm, stay), (who, b, 'ICU_DISCHARGE//MICU', None, None, hadm, stay)]
def hr(t, v=80, stay=100, who=1): return [(who, t, 'LAB//220045//bpm', v, str(v), 10, stay)]
BASE = BORN + visit('2150-01-01 08:00', '2150-01-09 08:00') + icu('2150-01-01 10:00', '2150-01-03 10:00') + hr('2150-01-01 10:30')

def meds(root, events, drop=(), types=None, **options):
    cells = [[*r, *[None]*(9 - len(r))] for r in events]
    t = dict(zip(COLUMNS, map(list, zip(*cells))))
    t['time'] = [x and pd.Timestamp(x) for x in t['time']]
    table = pa.table(t, schema=pa.schema(list((COLUMNS | (types or {})).items()))).drop_columns(list(drop))
    (root/'data'/'train').mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root/'data'/'train'/'0.parquet')
    c, report = load_cohort('meds', root, cfg=DataConfig(**LOOSE | options))
    assert sum(n for k,n in report.rows_read.items() if k.startswith('data/')) == len(events)
    return c, report

def test_outcomes_by_time(tmp_path):
    def one(death, place='DIED', extra=()):
        return meds(tmp_path, BASE[:2] + visit('2150-01-01 08:00', '2150-01-09 08:00', place) + BASE[4:] + [(1, death, 'MEDS_DEATH')]
                    + list(extra))[0].outcome.tolist()
    assert one('2150-01-03 09:30') == [1]                    # timed, in the ICU
    assert one('2150-01-03 10:40') == [1]                    # within death_hours of leaving
    assert one('2150-01-08 12:00') == [2]                    # timed, on the ward
    assert one('2150-01-09 00:00') == [2]                    # a date
    assert one('2150-06-01 00:00', 'HOME') == [0]            # months later
    later = visit('2150-03-01 08:00', '2150-03-02 08:00', 'DIED', 11) + icu('2150-03-01 09:00', '2150-03-02 08:00', 101, 11)
    later += [(1, '2150-03-01 09:30', 'LAB//220045//bpm', 90, '90', 11, 101)]
    assert one('2150-03-02 07:00', 'HOME', later) == [0, 1]  # the earlier stay was survived

def test_age_counts_birthdays(tmp_path):
    assert meds(tmp_path, BASE)[0].static.age.tolist() == [49]
    assert meds(tmp_path, [(1, '2100-01-01', 'MEDS_BIRTH')] + BASE[1:])[0].static.age.tolist() == [50]

def test_stays_by_time_without_ids(tmp_path):
    two = icu('2150-01-05 10:00', '2150-01-06 10:00', 101) + hr('2150-01-05 11:30', 95, 101) + hr('2150-01-04 11:30', 99, None)
    a, _ = meds(tmp_path/'ids', BASE + two)
    b, report = meds(tmp_path/'bare', BASE + two, drop=['icustay_id', 'hadm_id', 'order_id', 'unit', 'text_value'])
    assert a.stay_id.tolist() == ['100', '101'] and b.stay_id.tolist() == ['1-1', '1-2']
    assert np.array_equal(a.values, b.values, equal_nan=True) and (a.length == b.length).all()
    assert report.dropped('data/readings') == {KEPT: 2, 'outside the stay': 1}

def test_ids_of_other_types(tmp_path):
    a, _ = meds(tmp_path/'a', BASE)
    b, _ = meds(tmp_path/'b', BASE, types=dict(hadm_id=pa.float64(), icustay_id=pa.float64(), numeric_value=pa.float64(),
                                               code=pa.large_string(), time=pa.timestamp('ns')))
    assert a.fingerprint() == b.fingerprint()

def infusion(a, b, rate, amount, order=None, item=225158):
    return [(1, a, f'INFUSION_START//{item}', rate, None, 10, 100, order, 'mL/hour'),
            (1, b, f'INFUSION_END//{item}', amount, None, 10, 100, order, 'ml')]

@pytest.mark.parametrize('drop', [(), ('order_id',)])
def test_a_flush_inside_a_long_infusion(tmp_path, drop):
    d = '2150-01-01 '
    events = BASE + infusion(d + '10:00', d + '14:00', 100, 400, 1) + infusion(d + '12:00', d + '12:01', 3000, 50, 2)
    c, report = meds(tmp_path, events, drop)
    assert first(c, 'iv_in', 5) == [100, 100, 150, 100, -1]
    assert report.dropped('data/infusions') == {KEPT: 4}

def test_infusions_without_their_other_half(tmp_path):
    d = '2150-01-01 '
    events = BASE + infusion(d + '10:00', d + '11:00', 100, 100)[:1] + infusion(d + '12:00', d + '13:00', 50, 60)
    events += infusion(d + '14:00', d + '15:00', 100, 100, item=221906)[1:]
    c, report = meds(tmp_path, events)
    assert first(c, 'iv_in', 4) == [-1, -1, 60, -1]
    assert report.dropped('data/infusions') == {KEPT: 2, 'no matching end': 1, 'no matching start': 1}

def test_weight_turns_a_rate(tmp_path):
    d = '2150-01-01 '
    ne = [(1, d + '10:00', 'INFUSION_START//221906', 0.1, None, 10, 100, 3, 'mcg/kg/min'),
          (1, d + '12:00', 'INFUSION_END//221906', 1, None, 10, 100, 3, 'mg')]
    c, report = meds(tmp_path, BASE + ne)
    assert report.dropped('data/infusions') == {'no weight': 2}
    c, _ = meds(tmp_path, BASE + ne + [(1, d + '10:00', 'SUBJECT_WEIGHT_AT_INFUSION//KG', 70)])
    assert first(c, 'norepinephrine', 3) == [7, 7, 0] and c.static.weight.tolist() == [70]

def test_bindings(tmp_path):
    toml = tmp_path/'own.toml'
    toml.write_text('[icu_admission]\ncodes = ["IN*"]\n[icu_discharge]\ncodes = ["OUT"]\n[temp]\nunit = "°F"\ncodes = ["TEMPERATURE/*"]\n'
                    '[pain]\nkind = "numerical"\nunit = "points"\nlow = 0\nhigh = 10\ncodes = ["PAIN*"]\n'
                    '[xray_chest]\ncodes = ["CXR"]\n', encoding='utf-8')
    events = BORN + [(1, '2150-01-01 10:00', 'IN//X'), (1, '2150-01-03 10:00', 'OUT'), (1, '2150-01-01 10:10', 'TEMPERATURE/x', 98.6),
                     (1, '2150-01-01 11:10', 'PAIN.now', 4), (1, '2150-01-01 12:10', 'PAIN', 40), (1, '2150-01-01 13:10', 'CXR')]
    c, report = meds(tmp_path, events, drop=['icustay_id', 'hadm_id'], bindings=str(toml))
    assert first(c, 'temp', 1) == [37] and first(c, 'pain', 3) == [-1, 4, -1]
    assert c.flag('xray_chest')[0, :5].tolist() == [0, 0, 0, 1, 0]
    assert report.dropped('data/readings') == {KEPT: 3, 'out of range': 1}
    for text,error,said in (('[hart]\ncodes=["x"]', DataError, 'neither a concept nor a role'), ('[hr', DataError, 'not valid TOML'),
                            ('[hr]\ncodes=["TEMP*"]\n[temp]\ncodes=["TEMP*"]', ConfigError, 'claimed twice|bound already'),
                            ('[insulin]\ncodes=["PAIN"]', ConfigError, 'is a rate'),
                            ('[hr]\nunit="stones"\ncodes=["PAIN"]', ConfigError, 'unit')):
        toml.write_text(text)
        with pytest.raises(error, match=said): load_cohort('meds', tmp_path, cfg=DataConfig(**LOOSE, bindings=str(toml)))

def test_results_of_newer_exporters(tmp_path):
    new = [(1, '2150-01-01 10:20', 'LAB//SPECIMEN_COLLECTED//50912'), (1, '2150-01-01 11:20', 'LAB//RESULT//50912//mg/dL', 1.5)]
    c, report = meds(tmp_path, BASE + new)
    assert first(c, 'crea', 2) == [-1, 1.5]
    assert report.dropped('data/other codes') == {'item not in dictionary': 1}
    assert report.table[report.table.stage == 'patterns'].reason.tolist() == ['codes of LAB']

def test_a_unit_nobody_described(tmp_path):
    c, report = meds(tmp_path, BASE + [(1, '2150-01-01 11:20', 'LAB//50912//stones', 1.5), (1, '2150-01-01 11:30', 'LAB//50912//UNK', 2)])
    assert report.dropped('data/readings') == {KEPT: 2, 'unknown unit': 1} and first(c, 'crea', 2) == [-1, 2]

def test_procedures_that_share_a_start(tmp_path):
    d = '2150-01-01 '
    p = [(1, d + t, f'PROCEDURE//{k}//225792', None, None, 10, 100) for t,k in
         (('10:30', 'START'), ('11:30', 'END'), ('14:30', 'END'), ('16:10', 'START'))]
    c, report = meds(tmp_path, BASE + p)
    assert c.flag('ventilation_invasive')[0, :8].tolist() == [1, 1, 1, 1, 1, 0, 1, 0]
    assert report.rows_read['data/procedures'] == 4

def test_damaged_and_foreign_folders(tmp_path):
    with pytest.raises(DataError, match='no data/'): load_cohort('meds', tmp_path)
    meds(tmp_path, BASE)
    (tmp_path/'data'/'README.txt').write_text('other files do not matter')
    assert len(meds(tmp_path, BASE)[0]) == 1
    whole = (tmp_path/'data'/'train'/'0.parquet').read_bytes()
    (tmp_path/'data'/'held_out.parquet').write_bytes(whole[:len(whole)//2])
    with pytest.raises(DataError, match='cannot be read'): load_cohort('meds', tmp_path)

def test_the_year_3021(tmp_path):
    far = [(w, t and t.replace('2150', '3021').replace('2100', '2971'), *r) for w,t,*r in BASE]
    c, _ = meds(tmp_path, far)
    assert first(c, 'hr', 1) == [80] and c.static.age.tolist() == [49]

# ---- the demo in its two forms --------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def both():
    "The demo from its tables and from MEDS, in the same order of stays."
    cfg = DataConfig(min_people=1)
    (a, ra), (b, rb) = load_cohort('mimiciv', DEMO, cfg=cfg), load_cohort('meds', MEDS, cfg=cfg)
    return a, b.take(pd.Index(b.stay_id).get_indexer(a.stay_id)), ra, rb

STATED = dict(temp=3, iv_in=10) # seen 1 and 5: most cells that a tie in rounding puts one charting step apart (float32)

@demo
def test_demo_same_stays_people_and_outcomes(both):
    a, b, _, _ = both
    assert a.stay_id.tolist() == b.stay_id.tolist() and a.subject_id.tolist() == b.subject_id.tolist()
    assert (a.outcome == b.outcome).all() and (a.length == b.length).all() and len(a) == 122
    assert a.outcome.sum() > 0 and a.schema.origin == b.schema.origin == 'open'

@demo
def test_demo_same_hourly_values(both):
    a, b, _, _ = both
    assert a.schema.names('values') == b.schema.names('values') and len(a.schema.values) > 100
    differ = {}
    for f in a.schema.values:
        x, y = a.value(f.name), b.value(f.name)
        assert (np.isnan(x) == np.isnan(y)).all(), f'{f.name}: another mask'
        apart = np.abs(x - y)[~np.isnan(x)]
        assert apart.max(initial=0) <= (f.precision or 0)*1.001, f.name
        if (apart > 0).any(): differ[f.name] = int((apart > 0).sum())
    assert all(n <= STATED.get(k, 0) for k,n in differ.items()), differ
    for name in ('hr', 'sbp_art', 'o2sat', 'crea', 'k', 'na', 'glu', 'hgb'): assert (~np.isnan(b.value(name))).sum() > 100

@demo
def test_demo_unrounded_values_agree_as_float32(both):
    cfg = DataConfig(min_people=1, at_precision=False)
    (a, _), (b, _) = load_cohort('mimiciv', DEMO, cfg=cfg), load_cohort('meds', MEDS, cfg=cfg)
    b = b.take(pd.Index(b.stay_id).get_indexer(a.stay_id))
    assert np.allclose(a.values, b.values, rtol=1e-6, atol=1e-6, equal_nan=True)

@demo
def test_demo_same_flags_states_and_static(both):
    a, b, _, _ = both
    assert a.schema.names('flags') == b.schema.names('flags') and (a.flags == b.flags).all() and a.flags.sum() > 0
    assert a.schema.states == b.schema.states and (a.states == b.states).all()
    assert list(a.static) == list(b.static) and len(a.static.columns) > 600
    same = [c for c in a.static if a.static[c].astype(object).fillna(-1).tolist() == b.static[c].astype(object).fillna(-1).tolist()]
    near = [c for c in a.static if c not in same and np.allclose(a.static[c], b.static[c], atol=1e-5, equal_nan=True)]
    assert set(same) | set(near) == set(a.static) and set(near) <= {'weight', 'height'}

@demo
def test_demo_every_row_of_every_parquet(both):
    _, _, _, report = both
    n = {k: pq.ParquetFile(p).metadata.num_rows for k,p in {str(p.relative_to(MEDS)): p for p in MEDS.rglob('*.parquet')}.items()}
    read = report.rows_read
    assert sum(v for k,v in read.items() if k.startswith('data/')) == sum(v for k,v in n.items() if k.startswith('data/')) == 916_166
    assert read['metadata/codes'] == n['metadata/codes.parquet']
    assert read['metadata/subject_splits'] == n['metadata/subject_splits.parquet'] == 100
    assert read['data/stays'] == read['data/stay ends'] == 140

@demo
def test_demo_what_meds_does_not_hold(both):
    "The stated differences in rows: MEDS keeps equal rows once, and the report of each form counts its own."
    _, _, tables_, meds_ = both
    labs = pd.read_csv(DEMO/'hosp'/'labevents.csv.gz', dtype=str)
    spans = pd.read_csv(DEMO/'icu'/'procedureevents.csv.gz', dtype=str)
    code = pq.read_table(MEDS/'data', columns=['code', 'icustay_id']).to_pandas()
    hosp = code[code.code.str.startswith('LAB//') & code.icustay_id.isna()]
    key = ['subject_id', 'hadm_id', 'itemid', 'charttime', 'value', 'valuenum', 'valueuom', 'priority']
    assert len(labs) - len(hosp) == labs.duplicated(key).sum() == 178
    start = code.code.str.startswith('PROCEDURE//START').sum()
    assert len(spans) - start == spans.duplicated(['stay_id', 'itemid', 'starttime']).sum() == 33
    kept = lambda report, *names: sum(report.dropped(n).get(KEPT, 0) for n in names)
    for mine,theirs,times in (('data/readings', ('icu/chartevents', 'hosp/labevents', 'icu/outputevents'), 1),
                              ('data/infusions', ('icu/inputevents',), 2), ('data/procedures', ('icu/procedureevents',), 2),
                              ('data/diagnoses', ('hosp/diagnoses_icd',), 1), ('data/transfers', ('hosp/transfers',), 1)):
        assert kept(meds_, mine) == times*kept(tables_, *theirs) > 100, mine

@demo
def test_demo_origin_is_proved_not_claimed(tmp_path):
    folder = tmp_path/'less'
    (folder/'metadata').mkdir(parents=True)
    (folder/'data').mkdir()
    for k,p in enumerate(sorted((MEDS/'data').rglob('*.parquet'))): shutil.copyfile(p, folder/'data'/f'{k}.parquet')
    about = json.loads((MEDS/'metadata'/'dataset.json').read_text())
    def origin():
        with connect(DataConfig(), tmp_path) as con: return meds_origin(Meds(folder, con))
    assert origin() == 'restricted' # nothing says what it is
    (folder/'metadata'/'dataset.json').write_text(json.dumps(about))
    assert origin() == 'open'
    (folder/'metadata'/'dataset.json').write_text(json.dumps(about | dict(dataset_name='Our ICU', license='secret')))
    assert origin() == 'restricted'
    (folder/'metadata'/'dataset.json').write_text(json.dumps(about))
    (folder/'data'/'0.parquet').unlink() # fewer people than the demo has
    assert origin() == 'restricted'

@demo
def test_demo_by_time_alone(both, tmp_path):
    "Without ids: same stays, outcomes and readings; infusions that run side by side are paired by brackets."
    _, b, _, _ = both
    (tmp_path/'data').mkdir()
    t = pq.read_table(MEDS/'data', columns=['subject_id', 'time', 'code', 'numeric_value', 'text_value', 'unit'])
    pq.write_table(t, tmp_path/'data'/'all.parquet')
    c, report = load_cohort('meds', tmp_path, cfg=DataConfig(min_people=1))
    b, c = (d.take(np.lexsort((d.static.los, d.subject_id.astype(str)))) for d in (b, c))
    assert (b.subject_id == c.subject_id).all() and (b.outcome == c.outcome).all() and (b.length == c.length).all()
    assert b.schema.names('values') == c.schema.names('values') and (b.flags == c.flags).all()
    differ = {}
    for f in b.schema.values:
        x, y = b.value(f.name), c.value(f.name)
        assert (np.isnan(x) == np.isnan(y)).all(), f.name
        if n := int((np.abs(x - y) > 0).sum()): differ[f.name] = n
    assert set(differ) <= {'iv_in', 'temp', 'norepinephrine'} and differ['iv_in'] < 1000, differ
    total = lambda d: np.nansum(d.value('iv_in').astype(float))
    assert abs(total(b)/total(c) - 1) < 0.05
    assert sum(n for k,n in report.rows_read.items() if k.startswith('data/')) == 916_166
