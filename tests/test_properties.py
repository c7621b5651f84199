"Properties that hold for any input: the note parser, the hour grid, units, ages and the split."
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synkmimic.sources.concepts import Concept, conversion, load_concepts, unit_rows, unit_text
from synkmimic.sources.extract import DataConfig, Extraction, ExtractionReport, intervals, parse_age, points
from synkmimic.sources.files import connect, micros
from synkmimic.sources.grid import finish
from synkmimic.sources.rates import RATE_SPELLINGS, parse_rates, rate_rows
from synkmimic.toy import toy_cohort

HOUR, FAR = 3_600_000_000, '3021-05-01 12:00:00'
few = settings(max_examples=40, deadline=None)

@pytest.fixture(scope='module')
def con(tmp_path_factory):
    with connect(DataConfig(memory_limit='500MB', threads=1), tmp_path_factory.mktemp('spill')) as c: yield c

# ---- notes ----------------------------------------------------------------------------------------------------------
number = st.decimals(0, 9999, places=2, allow_nan=False).map(lambda d: f'{d:f}')
words = st.text('가나다 abcxyz:()', max_size=12).filter(lambda s: not s.strip().endswith(('-', '~')))

@few
@given(number, st.sampled_from(sorted(RATE_SPELLINGS)), st.sampled_from(['', ' ']), words)
def test_a_rate_is_found_wherever_it_stands_in_a_note(con, value, unit, gap, before):
    found = parse_rates(con, [f'{before} {value}{gap}{unit}', f'{value}{gap}{unit} {before}', f'{before} {value}{gap}{unit.upper()}'])
    assert found.number.tolist() == pytest.approx([float(value)]*3)
    assert {RATE_SPELLINGS[u] for u in found.unit} == {RATE_SPELLINGS[unit]}

@few
@given(number, number, st.sampled_from(['cc/hr', 'mcg/kg/min']))
def test_the_last_of_two_rates_counts_and_a_range_is_none(con, a, b, unit):
    found = parse_rates(con, [f'{a}->{b}{unit}', f'{a}{unit} -> {b}{unit}', f'{a}-{b}{unit}', f'{a}~{b}{unit}'])
    assert found.number[:2].tolist() == pytest.approx([float(b)]*2) and found.number[2:].isna().all()

@few
@given(st.text(st.characters(codec='utf-8', exclude_characters='0123456789'), max_size=40))
def test_a_note_without_digits_holds_no_rate(con, note):
    assert parse_rates(con, [note]).number.isna().all()

@few
@given(st.sampled_from(sorted(RATE_SPELLINGS)), st.sampled_from(sorted(RATE_SPELLINGS)), st.floats(.1, 100), st.floats(30, 150))
def test_converting_a_rate_there_and_back_gives_it_back(a, b, value, weight):
    def factor(source, target):
        rows = rate_rows([Concept('x', 'infusion', unit=target, low=0, high=1, agg='rate')])
        return next(((f, p) for _,u,f,p,volume in rows if u == source and not volume), None)
    there, back = factor(a, b), factor(b, a)
    same = RATE_SPELLINGS[a][0] == RATE_SPELLINGS[b][0]
    assert (there is not None) == (back is not None) == same
    if same: assert value*there[0]*weight**there[1]*back[0]*weight**back[1] == pytest.approx(value)

# ---- units ----------------------------------------------------------------------------------------------------------
CONCEPTS = {s: [c for c in load_concepts(s) if c.kind == 'numerical' and c.agg != 'rate'] for s in ('kmimic', 'mimiciv')}

@few
@given(st.sampled_from([c for cs in CONCEPTS.values() for c in cs]), st.floats(-1e3, 1e4))
def test_every_accepted_unit_is_a_line_that_rises(concept, value):
    for _,text,factor,shift in unit_rows([concept]):
        assert factor > 0 and np.isfinite(shift), (concept.name, text)
        again = conversion(concept, text)
        if again is not None: assert value*factor + shift == pytest.approx(value*again[0] + again[1])
    assert conversion(concept, concept.unit) == (1., 0.) == conversion(concept, '')

@few
@given(st.sampled_from(CONCEPTS['mimiciv']), st.text('abcdefghij', min_size=9, max_size=12))
def test_no_unit_is_guessed(concept, nonsense):
    assert conversion(concept, nonsense) is None and unit_text(nonsense) not in {t for _,t,_,_ in unit_rows([concept])}

# ---- the grid -------------------------------------------------------------------------------------------------------
def engine(con, span_hours, step, concepts, hours=12):
    x = Extraction(con, concepts, DataConfig(hours=hours, grid_hours=step, min_people=1, at_precision=False), ExtractionReport())
    t0 = micros(con, [FAR])[0]
    stays = pd.DataFrame(dict(stay_id=['s'], subject_id=['p'], hadm_id=['h'], t_in=t0, t_out=t0 + round(span_hours*HOUR)))
    x.set_stays(stays, stays)
    x.set_items('t', [('a', 0, 1., 0.)])
    return x, int(t0)

def grid(x):
    length = np.clip(-(-x.span//x.cfg.grid), 1, x.steps)
    return finish(x.grid, length, np.ones(1, bool), np.ones(len(x.concepts), bool), np.ones(0, bool), False).values[0, :, 0]

minute = st.integers(-120, 16*60)
rows = st.lists(st.tuples(minute, st.integers(0, 300)), min_size=1, max_size=25)

@few
@given(rows, st.sampled_from([.5, 1., 2., 3.]), st.floats(.6, 15))
def test_readings_fall_into_the_hour_that_pandas_says(con, rows, step, span):
    x, t0 = engine(con, span, step, [Concept('a', 'vital', unit='mmHg', low=0, high=250)])
    x.table('raw', pd.DataFrame([(t0 + m*60_000_000, float(v)) for m,v in rows], columns=['us', 'v']))
    points(x, 't', "(SELECT 's' AS stay, 'a' AS item, make_timestamp(us) AS t, v, NULL AS txt, NULL AS unit FROM raw)")
    d = pd.DataFrame(rows, columns=['m', 'v']).drop_duplicates()
    d = d[(d.m >= 0) & (d.m*60_000_000 < int(x.span[0])) & (d.m < 12*60) & (d.v <= 250)]
    want = d.groupby(np.floor(d.m/60/step).astype(int)).v.mean().reindex(range(x.steps)).to_numpy()
    np.testing.assert_allclose(grid(x), want, rtol=1e-5)
    assert sum(x.report.dropped('t').values()) == len(rows) and x.report.dropped('t').get('kept', 0) == len(d)

@few
@given(minute, st.integers(1, 900), st.integers(1, 5000), st.sampled_from([.5, 1., 2.]), st.floats(1, 15))
def test_an_amount_keeps_its_total_inside_the_stay(con, start, lasts, amount, step, span):
    x, t0 = engine(con, span, step, [Concept('a', 'intake', unit='mL', low=0, high=1e6, agg='sum')])
    sql = f"""(SELECT 's' AS stay, 'a' AS item, make_timestamp({t0 + start*60_000_000}) AS t, make_timestamp({t0 + (start + lasts)*60_000_000}) AS t1,
        {float(amount)} AS v, 'cc' AS unit, NULL::DOUBLE AS w)"""
    intervals(x, 't', sql, 'amounts')
    inside = max(0, min(start + lasts, int(x.span[0])/60_000_000, 12*60) - max(start, 0))
    assert np.nansum(grid(x)) == pytest.approx(amount*inside/lasts, rel=1e-4, abs=1e-3)
    assert sum(x.report.dropped('t').values()) == 1

@few
@example(start=0, lasts=61, rate=1, step=.5, span=1.00001) # 36 ms of the last step are inside the stay
@given(minute, st.integers(1, 900), st.integers(1, 900), st.sampled_from([.5, 1., 2.]), st.floats(1, 15))
def test_a_rate_is_averaged_over_time_and_zero_elsewhere(con, start, lasts, rate, step, span):
    x, t0 = engine(con, span, step, [Concept('a', 'infusion', unit='mL/hr', low=0, high=1e6, agg='rate')])
    sql = f"""(SELECT 's' AS stay, 'a' AS item, make_timestamp({t0 + start*60_000_000}) AS t, make_timestamp({t0 + (start + lasts)*60_000_000}) AS t1,
        {float(rate)} AS v, 'cc/hr' AS unit, NULL::DOUBLE AS w)"""
    intervals(x, 't', sql, 'rates')
    end, g = int(x.span[0])/60_000_000, 60*step
    hours = np.arange(x.steps)
    overlap = np.clip(np.minimum(np.minimum(start + lasts, end), (hours + 1)*g) - np.maximum(max(start, 0), hours*g), 0, None)
    left = np.minimum(g, end - hours*g)
    want = np.where(left > 0, rate*overlap/np.where(left > 0, left, 1), np.nan)
    np.testing.assert_allclose(grid(x), want, rtol=1e-4, atol=1e-4)

@few
@given(st.integers(1, 240), st.sampled_from([.5, 1., 2., 4.]))
def test_the_window_is_its_hours_whatever_the_step(hours, step):
    if hours % step: return
    assert DataConfig(hours=hours, grid_hours=step).steps*step == hours

# ---- ages and the split ---------------------------------------------------------------------------------------------
@few
@given(st.integers(0, 110), st.integers(0, 11), st.integers(0, 30))
def test_ages_in_every_form(years, months, days):
    want = years + months/12 + days/365.25
    texts = [f'{years} years, {months} months, {days} days', f'{years}세 {months}개월 {days}일', f'{years} yrs, {months} mo, {days} d']
    np.testing.assert_allclose(parse_age(texts), [want]*3)
    np.testing.assert_allclose(parse_age([years, str(years), f'{years} years', f'{years}.0']), [years]*4)

COHORT = toy_cohort(n=120, hours=4)

@few
@given(st.integers(0, 10**6), st.floats(.1, .9))
def test_a_split_shares_no_person_and_loses_none(seed, part):
    a, b = COHORT.split_by_subject(seed, (part, 1 - part))
    assert not set(a.subject_id) & set(b.subject_id)
    assert sorted([*a.stay_id, *b.stay_id]) == sorted(COHORT.stay_id)
