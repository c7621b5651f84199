"Codes, the screen, static facts and the notes of running drugs: on registries small enough to count by hand, and on the open demo."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import DEMO, KEPT, NE, Registry, adds_up, demo, hours, load, load_cohort, one

from synkmimic.codes import (CHAPTERS, FEW, KINDS, classify, code_text, count_text, group_codes, map_icd9, matches, read_icd9_map, screen,
                             screen_counts, sensitive, sensitive_groups, special_groups, suppressed)
from synkmimic.core import ConfigError, DataError
from synkmimic.sources.extract import DataConfig

def systems(codes, versions, kind='diagnosis'):
    d = classify(codes, versions, kind)
    return [None if pd.isna(s) else f'{s}:{c}' for s,c in zip(d.system, d.code)]

# ---- spelling and system --------------------------------------------------------------------------------------------
def test_one_spelling():
    assert code_text(['I50.9', 'i50.9 ', 'Ｉ５０．９', 'I50.9*', ' I 50 9']).tolist() == ['I509']*5
    assert code_text([None, '', '..', '-']).isna().all()

@pytest.mark.parametrize('version', ['9', '09', 9, 9.0, '9.0', 'ICD9', 'ICD-9-CM', 'icd9cm'])
def test_labels_of_the_ninth_revision(version):
    assert systems(['428.0', 'V08', 'E812.1'], [version]*3) == ['dx9:4280', 'dx9:V08', 'dx9:E8121']
    assert systems(['54.11', '5411'], [version]*2, 'procedure') == ['px9:5411']*2

@pytest.mark.parametrize('version', ['10', 10, 'KCD7', 'KCD8', 'KCD9', 'KCD-9', 'ICD-10-CM', 'ICD10 2019', None, ''])
def test_labels_of_the_tenth_revision_and_none(version):
    assert systems(['I50.9', 'E11', 'U07.1', 'S72.001A'], [version]*4) == ['dx:I509', 'dx:E11', 'dx:U071', 'dx:S72001A']
    assert systems(['54.11', '36.1', '0BH17EZ', 'M5850'], [version]*4, 'procedure') == ['px9:5411', 'px9:361', 'px:0BH17EZ', 'px:M5850']

def test_the_form_decides_where_the_label_cannot_be_meant():
    assert systems(['4280', 'I509', 'E119', 'E1190'], ['10', '9', '10', '9']) == ['dx9:4280', 'dx:I509', 'dx:E119', 'dx9:E1190']

def test_lost_zeros_and_added_ones():
    assert systems(['38.9', '8.45', '4280.0', '250.0', '042'], ['9']*5) == ['dx9:0389', 'dx9:00845', 'dx9:4280', 'dx9:2500', 'dx9:042']
    assert systems(['3.31', '3611.0', '54.0'], ['9']*3, 'procedure') == ['px9:0331', 'px9:3611', 'px9:540']

def test_what_is_no_code_is_not_understood():
    assert systems(['unknown', '없음', None, '', 'I', 'I5', '12'], ['KCD8']*7) == [None]*7
    with pytest.raises(ConfigError, match='diagnosis'): classify(['I50'], ['10'], 'drug')

def test_the_demo_is_understood_without_remainder():
    if not DEMO.is_dir(): pytest.skip('the MIMIC-IV demo is not beside the project')
    for table,kind in (('diagnoses_icd', 'diagnosis'), ('procedures_icd', 'procedure')):
        d = pd.read_csv(DEMO/'hosp'/f'{table}.csv.gz', dtype=str)
        c = classify(d.icd_code, d.icd_version, kind)
        assert (c.code == d.icd_code).all() and (c.system == d.icd_version.map(dict(zip(('10', '9'), KINDS[kind])))).all()
        assert group_codes(c.code, c.system, 'chapter').notna().all()

# ---- groups ---------------------------------------------------------------------------------------------------------
def test_groups_of_every_system():
    code, system = ['I509', 'E8121', 'V4581', '4280', '0BH17EZ', '5411', 'M5850'], ['dx', 'dx9', 'dx9', 'dx9', 'px', 'px9', 'px']
    assert group_codes(code, system, 'category').tolist() == ['I50', 'E812', 'V45', '428', '0BH', '541', 'M58']
    assert group_codes(code, system, 'chapter').tolist() == ['I00_I99', 'E000_E999', 'V01_V91', '390_459', '0', '42_54', 'local']
    assert group_codes(code, system, 'full').tolist() == code

@given(letter=st.sampled_from('ABCDEFGHIJKLMNOPQRSTUVWXYZ'), number=st.integers(0, 99), more=st.text('0123456789ABCX', max_size=4))
@settings(max_examples=30, deadline=None)
def test_every_icd10_code_has_one_chapter_and_a_category_inside_it(letter, number, more):
    code = f'{letter}{number:02d}{more}'
    assert systems([f'{code[:3]}.{code[3:]}'], ['KCD8']) == [f'dx:{code}']
    chapter = group_codes([code], ['dx'], 'chapter')[0]
    assert chapter.replace('_', '-') in CHAPTERS['dx'].split() and chapter[:3] <= group_codes([code], ['dx'])[0] <= chapter[4:]

@given(low=st.integers(0, 998), width=st.integers(0, 50), code=st.integers(0, 999), more=st.sampled_from(['', '0', '19']))
@settings(max_examples=100, deadline=None)
def test_a_range_holds_what_lies_between_its_ends(low, width, code, more):
    high = min(low + width, 999)
    assert matches([f'{code:03d}{more}'], [f'{low:03d}-{high:03d}'])[0] == (low <= code <= high)

# ---- ICD-9 to ICD-10 ------------------------------------------------------------------------------------------------
def test_a_map_keeps_diagnoses_and_procedures_apart(tmp_path):
    (tmp_path/'m.csv').write_text('icd9,icd10\n0389,A41.9\n03.89,00JU0ZZ\n42731,I48.0\n42731,I48.9\n')
    m = read_icd9_map(tmp_path/'m.csv')
    d = pd.DataFrame(dict(code=['0389', '0389', '42731', '4019'], system=['dx9', 'px9', 'dx9', 'dx9']))
    assert map_icd9(d, m).to_dict('list') == dict(code=['A419', '00JU0ZZ', 'I480', '4019'], system=['dx', 'px', 'dx', 'dx9'])
    (tmp_path/'k.csv').write_text('ICD9,ICD10,Kind\n0389,XW03331,procedure\n0389,A41.9,diagnosis\n')
    assert map_icd9(d, read_icd9_map(tmp_path/'k.csv')).code.tolist() == ['A419', 'XW03331', '42731', '4019']
    for text,problem in (('icd9,icd10,kind\n0389,A41.9,drug\n', 'drug'), ('icd9,icd10\n?,?\n', 'holds no ICD-9'), ('a,b\n', 'column icd9')):
        (tmp_path/'bad.csv').write_text(text)
        with pytest.raises(DataError, match=problem): read_icd9_map(tmp_path/'bad.csv')

def test_mapped_and_unmapped_codes_are_counted(tmp_path):
    (tmp_path/'m.csv').write_text('icd9,icd10\n428.0,I50.9\n')
    r = one()
    r.rows['hosp/diagnoses_icd'] += [('p1', 'a_s1', 's1', c, v) for c,v in (('I50.0', 'KCD8'), ('4280', '9'), ('401.9', '9'))]
    c, report = load(r, tmp_path, icd9_map=str(tmp_path/'m.csv'))
    assert [f.name for f in c.schema.static if f.group == 'diagnosis'] == ['dx_i50', 'dx9_401']
    t = report.table[(report.table.stage == 'codes') & (report.table.table == 'hosp/diagnoses_icd')]
    assert dict(zip(t.reason, t.rows)) == {'ICD-9 mapped': 1, 'ICD-9 without a target': 1}

# ---- the screen -----------------------------------------------------------------------------------------------------
LISTED = dict(dx=['T740', 'O049', 'F00', 'F999', 'B20', 'B24', 'Z21', 'A50', 'A64'], dx9=['99550', '99585', '6350', '29010', '319', '042', 'V08', '0905', '0999'],
              px=['10A07Z6'], px9=['6951', '750'])
FREE = dict(dx=['T739', 'T75', 'O03', 'G00', 'B19', 'B25', 'Z20', 'Z22', 'A49', 'A65', 'I50'], dx9=['9957', '634', '289', '320', '041', 'V09', '0889', '100'],
            px=['10D00Z1', '0BH17EZ'], px9=['042', '695', '751'])

def test_the_list_holds_what_it_should_and_nothing_beside():
    frame = lambda d: pd.DataFrame([(c, s) for s,codes in d.items() for c in codes], columns=['code', 'system'])
    assert sensitive(frame(LISTED)).all() and not sensitive(frame(FREE)).any()
    verified = {p for g in sensitive_groups().values() for p in g['verified']}
    assert verified == {'T74', 'O04'} and sensitive_groups()['rare_disease']['dx'] == []

def rows(n, code, system='dx', first=0): return pd.DataFrame(dict(stay=range(first, first + n), subject=range(first, first + n), code=code, system=system))

def test_few_people_hide_their_whole_line():
    codes = pd.concat([rows(FEW, 'F10'), rows(FEW - 1, 'B24'), rows(3, 'B24'), rows(30, 'I50')])
    shown = screen(codes).set_index('group')
    assert shown.loc['psychiatric', ['codes', 'rows', 'people', 'stays']].tolist() == ['1', '11', '11', '11']
    assert shown.loc['hiv', ['codes', 'rows', 'people', 'stays']].tolist() == ['hidden', 'hidden', '<11', 'hidden']
    assert shown.loc['abuse', 'people'] == '0' and 'not looked for' in shown.loc['rare_disease', 'note']
    exact = screen_counts(codes).set_index('group')
    assert exact.loc['hiv', ['codes', 'rows', 'people', 'stays']].tolist() == [1, 13, 10, 10]

@given(n=st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_no_count_from_one_to_ten_is_ever_shown(n):
    shown = suppressed(pd.DataFrame(dict(people=[n], stays=[n + 1], rows=[3*n])), ['stays', 'rows']).iloc[0]
    assert count_text(n) == shown.people and (shown.people in ('0', '<11') or int(shown.people) >= 11)
    assert (shown.stays == 'hidden') == (1 <= n <= 10)

def test_special_groups():
    stays = pd.DataFrame(dict(stay=range(30), subject=[k//2 for k in range(30)], age=[0.05]*2 + [13.9]*2 + [18.9]*2 + [19]*24, nationality=['foreign']*6 + ['domestic']*24,
                              admission_type=['Neonate']*2 + ['Admission']*28, died=[True]*10 + [False]*20))
    g = special_groups(stays, rows(12, 'O82', first=6)).set_index('group')
    assert g.people.to_dict() == dict(minors=3, children=2, neonates=1, foreign=3, deceased=5, pregnancy=12, newborn_codes=0, family_history=0)
    assert special_groups(stays[['stay', 'subject']], rows(1, 'I50')).set_index('group').note['foreign'] == 'not recorded'

def ward(n=15):
    "n people; the first 12 have a psychiatric code, the first 3 HIV; one is a minor, two are foreigners."
    r = Registry()
    for k in range(n):
        r.stay(f's{k}', f'p{k}', age='16 years' if k == 0 else '50 years').chart('HR', '10:30', 80 + k, stay=f's{k}')
        codes = ['I10'] + ['F32.9']*(k < 12) + ['B24']*(k < 3)
        r.rows['hosp/diagnoses_icd'] += [(f'p{k}', f'a_s{k}', f's{k}', c, 'KCD8') for c in codes]
    r.rows['hosp/admissions'] = [(*a[:-1], 'Vietnam' if i < 2 else 'Korea') for i,a in enumerate(r.rows['hosp/admissions'])]
    return r

def test_the_default_lists_and_the_option_withholds(tmp_path):
    plain, report = load(ward(), tmp_path/'a', min_people=2)
    t = report.table[report.table.stage.isin(['screen', 'special'])].set_index(['item', 'reason']).rows
    assert t['psychiatric', 'people'] == t['psychiatric', 'rows'] == 12 and t['psychiatric', 'codes'] == 1
    assert t['hiv', 'people: fewer than 11'] == 0 and ('hiv', 'rows') not in t.index and ('minors', 'people') not in t.index
    assert {'dx_f32', 'dx_b24', 'dx_i10'} <= set(plain.static) and not plain.static.filter(like='nationality').columns.size
    strict, report = load(ward(), tmp_path/'b', min_people=2, withhold_sensitive=True)
    assert [c for c in strict.static if c.startswith('dx')] == ['dx_i10']
    assert report.dropped('hosp/diagnoses_icd') == {'withheld as sensitive': 15, KEPT: 15}
    adds_up(report, tmp_path/'b'/'registry')

def test_a_list_of_ones_own(tmp_path):
    (tmp_path/'list.toml').write_text("[withhold.heart]\ndx = ['I10']\n")
    c, report = load(ward(), tmp_path, withhold_sensitive=True, sensitive_codes=str(tmp_path/'list.toml'), min_people=2)
    assert [n for n in c.static if n.startswith('dx')] == ['dx_b24', 'dx_f32'] and set(report.table[report.table.stage == 'screen'].item) == {'heart'}
    for text,problem in (('[withhold.x]\ndx = ["F9-F99"]\n', 'neither a beginning'), ('[withhold.x]\nicd = []\n', 'no key'), ('x', 'not valid TOML')):
        (tmp_path/'list.toml').write_text(text)
        with pytest.raises(DataError, match=problem): sensitive_groups(str(tmp_path/'list.toml'))
    with pytest.raises(DataError, match='data.sensitive_codes'): sensitive_groups(str(tmp_path/'none.toml'))

# ---- static facts ---------------------------------------------------------------------------------------------------
def test_nationality_is_dropped_or_has_two_levels(tmp_path):
    c, _ = load(ward(), tmp_path, min_people=2, nationality='two_levels')
    assert c.schema.feature('nationality').levels == ('domestic', 'foreign') and (c.static.nationality == 'foreign').sum() == 2
    with pytest.raises(ConfigError, match='two_levels'): DataConfig(nationality='keep')

def test_code_groups_and_rows_without_a_stay(tmp_path):
    r = one()
    r.rows['hosp/diagnoses_icd'] += [('p1', 'a_s1', 's1', 'I50.9', 'KCD8'), ('p1', 'a_s1', '', 'i509', 'KCD8'), ('p1', 'a_s1', '', 'N17.9', 'KCD8'),
                                     ('p1', 'a_s1', 's1', 'I50.9', 'KCD8'), ('p1', 'a_s1', 's1', '', 'KCD8'), ('p1', 'a_s1', 's1', '모름', 'KCD8'),
                                     ('p9', 'a_9', 's9', 'I50.9', 'KCD8')]
    r.rows['hosp/procedures_icd'] += [('p1', 'a_s1', 's1', '54.11', 'KCD8'), ('p1', 'a_s1', 's1', '0BH17EZ', '10')]
    for group,names in dict(category=['dx_i50', 'dx_n17', 'px_0bh', 'px9_541'], chapter=['dx_i00_i99', 'dx_n00_n99', 'px_0', 'px9_42_54'],
                            full=['dx_i509', 'dx_n179', 'px_0bh17ez', 'px9_5411']).items():
        c, report = load(r, tmp_path/group, code_group=group)
        assert [f.name for f in c.schema.static if f.group in KINDS] == names
    assert report.dropped('hosp/diagnoses_icd') == {'no code': 1, 'stay unknown': 1, 'code not understood': 1, KEPT: 3, 'duplicate row': 1}
    adds_up(report, tmp_path/'full'/'registry')

@demo
def test_the_demo_has_weights_and_heights():
    c, report = load_cohort('mimiciv', DEMO, cfg=DataConfig(min_people=1))
    chart = pd.read_csv(DEMO/'icu'/'chartevents.csv.gz', usecols=['stay_id', 'charttime', 'itemid', 'valuenum'])
    h = chart[chart.itemid == 226730].groupby('stay_id').valuenum.first()
    h = h[h.between(100, 230)]
    mine = pd.Series(c.static.height.to_numpy(), c.stay_id.astype(int))
    both = mine.index.intersection(h.index)
    assert len(both) > 40 and np.allclose(mine[both], h[both], atol=1.3) # the same entry stands there in inches too
    assert c.static.weight.notna().all() and c.static.weight.between(30, 200).all()
    inputs = pd.read_csv(DEMO/'icu'/'inputevents.csv.gz', usecols=['stay_id', 'patientweight']).groupby('stay_id').patientweight
    once = inputs.nunique()[lambda n: n == 1].index.intersection(mine.index)
    weight = pd.Series(c.static.weight.to_numpy(), c.stay_id.astype(int))
    assert len(once) > 60 and np.allclose(weight[once], inputs.first()[once], atol=0.06)

@demo
def test_the_demo_codes_agree_with_pandas():
    c, report = load_cohort('mimiciv', DEMO, cfg=DataConfig())
    s = pd.read_csv(DEMO/'icu'/'icustays.csv.gz', dtype=str)
    for table,prefixes in (('diagnoses_icd', dict(zip(('10', '9'), ('dx', 'dx9')))), ('procedures_icd', dict(zip(('10', '9'), ('px', 'px9'))))):
        d = pd.read_csv(DEMO/'hosp'/f'{table}.csv.gz', dtype=str)
        size = np.where((d.icd_version == '9') & d.icd_code.str.startswith('E'), 4, 3)
        d['name'] = [f'{prefixes[v]}_{code[:n].lower()}' for v,code,n in zip(d.icd_version, d.icd_code, size)]
        m = d.merge(s[['hadm_id', 'stay_id', 'subject_id']], on='hadm_id').query('stay_id in @c.stay_id')
        people = m.groupby('name').subject_id_y.nunique()
        names = sorted(n for n in c.static if n.split('_')[0] in prefixes.values())
        # the floor counts the people of all stays kept, before those without an event are dropped
        assert set(people.index[people >= 11]) <= set(names) and len(names) >= 7
        for n in names: assert set(c.stay_id[c.static[n] == 1]) == set(m.stay_id[m.name == n]), n
        assert report.rows_read[f'hosp/{table}'] == len(d)

# ---- the notes of running drugs -------------------------------------------------------------------------------------
def test_a_note_that_says_stop_stops_and_one_that_says_resume_does_not(tmp_path):
    r = one().drug(NE, '10:00', 'start', '6 mcg/min').drug(NE, '12:00', '', '중단').drug(NE, '13:00', 'start', '4 mcg/min')
    r.drug(NE, '14:00', 'change', 'off').drug(NE, '15:00', 'start', '2 mcg/min').drug(NE, '16:00', 'change', 'hold 해제')
    r.drug(NE, '18:00', 'change', 'office 확인').drug(NE, '19:00', 'stop', '')
    c, report = load(r, tmp_path)
    assert hours(c, 'norepinephrine', 11) == [6, 6, 0, 4, 0, 2, -1, -1, -1, 0, 0]
    assert report.dropped('hosp/emar') == {KEPT: 6, 'rate not understood': 2}

def test_every_unread_note_is_counted_with_its_shape_and_no_word(tmp_path):
    r = one().drug(NE, '10:00', 'start', 'Dr Kim: as ordered').drug(NE, '11:00', 'change', 'Dr Lee: as before').drug(NE, '12:00', 'change', '0.1mcg/kg/min')
    r.drug(NE, '13:00', 'change', '5 cc/hr').drug(NE, '14:00', 'change', '3 unit/hr').drug(NE, '15:00', 'change', '').drug(NE, '16:00', 'stop', '')
    _, report = load(r, tmp_path)
    t = report.table[report.table.stage == 'patterns']
    found = {(a, int(n)) for a,n in zip(t.reason, t.rows)}
    lost = {k: n for k,n in report.dropped('hosp/emar').items() if k != KEPT}
    assert sum(lost.values()) == t.rows.sum() == 6 and ('rate not understood: a a: a a', 2) in found
    assert {a.split(':')[0] for a,_ in found} == set(lost)
    assert not any(w in a for w in ('Kim', 'Lee', 'ordered', '0.1') for a,_ in found)
