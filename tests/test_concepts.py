"The concept dictionary: every mistake is found at loading, every feature of the paper is there, and real rows agree."
import csv
import itertools
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import synkmimic
from synkmimic.core import ConfigError
from synkmimic.sources.concepts import (SOURCES, Concept, concept_table, conversion, dictionary, exceptions, extended, item_rows, label_text, load_concepts,
                                        spellings, unit_rows, unit_text)
from synkmimic.sources.extract import KEPT, DataConfig
from synkmimic.sources.load import load_cohort
from synkmimic.sources.rates import rate_rows

SHARED = Path(__file__).resolve().parents[2]/'shared'
FEATURES, DEMO, CHALLENGE = SHARED/'kmimic'/'features.csv', SHARED/'data'/'mimic-iv-demo-2.2', SHARED/'data'/'physionet-challenge-2012'
listed = pytest.mark.skipif(not FEATURES.exists(), reason='the registry\'s feature list is not beside the project')
demo = pytest.mark.skipif(not DEMO.is_dir(), reason=f'the MIMIC-IV demo is not at {DEMO.name} beside the project')
challenge = pytest.mark.skipif(not CHALLENGE.is_dir(), reason=f'{CHALLENGE.name} is not beside the project')
FOLDER = Path(synkmimic.__file__).parent/'data'/'concepts'
VOCABULARY = tomllib.loads((FOLDER/'units.toml').read_text(encoding='utf-8'))

# ---- mistakes -------------------------------------------------------------------------------------------------------
LAB = dict(unit='mg/dL', low=0, high=20, precision=0.1)
MODE = dict(kind='categorical', agg='last')
def at(table='labevents', **k): return [dict(table=table, ids=[1]) | k]

MISTAKES = {
    'unknown unit': (LAB | dict(unit='mg/decilitre'), "unknown unit 'mg/decilitre'", 'Add it to units.toml'),
    'unknown unit of a place': (LAB | dict(mimiciv=at(unit='furlong')), "unknown unit 'furlong'", 'Add it to units.toml'),
    'unknown unit of a conversion': (LAB | dict(convert={'furlong': 2.}), "unknown unit 'furlong'", 'Add it to units.toml'),
    'misspelt unit': (LAB | dict(unit='mg/dl.'), 'unknown unit', "Did you mean 'mg/dL'"),
    'no unit': (dict(low=0, high=20), 'has no unit', 'Give `unit`'),
    'missing conversion': (LAB | dict(mimiciv=at(unit='kg')), "no conversion from 'kg' to 'mg/dL'", 'Add it to its `convert` table'),
    'missing conversion in another source': (LAB | dict(challenge2012=[dict(parameter='X', unit='kg')]), "no conversion from 'kg'", '`convert` table'),
    'conversion without a factor': (LAB | dict(convert={'mmol/L': 0}), "the factor of 'mmol/L' is 0", 'is how many mg/dL'),
    'conversion given twice': (LAB | dict(convert={'g/L': 10.}), "'g/L' is converted by units.toml already", 'Remove it'),
    'unknown key': (LAB | dict(hgih=3), "unknown key 'hgih'", "Did you mean 'high'"),
    'unknown key of a place': (LAB | dict(mimiciv=at(itemid=3)), "unknown key 'itemid'", 'Known are'),
    'unknown kind': (LAB | dict(kind='number'), "unknown kind 'number'", 'It is one of'),
    'unknown aggregate': (LAB | dict(agg='average'), "unknown agg 'average'", 'It is one of'),
    'low above high': (LAB | dict(low=30), 'needs low <= high, has 30 and 20', 'inclusive'),
    'no limits': (dict(unit='mg/dL'), 'needs low <= high', 'inclusive'),
    'limits that are text': (LAB | dict(low='0'), 'needs low <= high', 'inclusive'),
    'no precision': (LAB | dict(precision=0), 'precision 0 is no charting step', 'above 0'),
    'negative precision': (LAB | dict(precision=-0.1), 'no charting step', 'above 0'),
    'precision beyond the range': (LAB | dict(precision=50), 'no charting step', 'within the range'),
    'pressures summed': (LAB | dict(unit='mmHg', agg='sum'), "'mmHg' cannot be summed", "Use agg = 'mean'"),
    'concentrations summed': (LAB | dict(agg='sum'), "'mg/dL' cannot be summed", "Use agg = 'mean'"),
    'a lab as a rate': (LAB | dict(agg='rate'), "'mg/dL' is no rate unit", 'Such as mcg/kg/min'),
    'a flag that is summed': (dict(kind='flag', agg='sum', unit='mL'), 'does not fit a flag', "Use 'last'"),
    'a category that is averaged': (dict(kind='categorical', levels=dict(a=['x'])), 'does not fit a categorical', "Use 'last'"),
    'no levels': (dict(MODE), 'levels belong to a categorical concept', 'Give `levels`'),
    'levels of a number': (LAB | dict(levels=dict(a=['x'])), 'levels belong to a categorical concept', 'another `kind`'),
    'level without pattern': (MODE | dict(levels=dict(a=['x'], b=[])), "level 'b' has no pattern", 'Give the texts'),
    'pattern that is no text': (MODE | dict(levels=dict(a=['x.*'])), "pattern 'x.*' is not plain text", 'are special'),
    'pattern in capitals': (MODE | dict(levels=dict(a=['CMV'])), "pattern 'CMV' can never match", 'lower case'),
    'pattern taken by an earlier level': (MODE | dict(levels=dict(a=['cmv'], b=['p-cmv'])), "pattern 'p-cmv' can never match", 'reorder'),
    'pattern taken by its own level': (MODE | dict(levels=dict(a=['ps', r'\bps\b'])), 'can never match', 'reorder'),
    'pattern taken by two together': (MODE | dict(levels=dict(a=['ps'], b=['vs'], c=['vs ps'])), "pattern 'vs ps' can never match", 'reorder'),
    'unknown table': (LAB | dict(mimiciv=at('labevent')), "unknown table 'labevent'", "Did you mean 'labevents'"),
    'no ids': (LAB | dict(mimiciv=at(ids=[])), 'has no ids', 'Give `ids`'),
    'a lab in inputevents': (LAB | dict(mimiciv=at('inputevents')), 'cannot come from inputevents', 'it must be'),
    'a lab in procedureevents': (LAB | dict(mimiciv=at('procedureevents')), 'cannot come from procedureevents', 'it must be flag'),
    'item claimed twice': (LAB | dict(mimiciv=at(ids=[1, 1])), "item '1' is claimed twice (by crea)", 'remove one'),
    'item claimed in two places': (LAB | dict(mimiciv=[*at(), *at()]), "item '1' is claimed twice (by crea)", 'remove one'),
    'label claimed twice': (LAB | dict(kmimic=[dict(table='labevents', labels=['Hb  A', 'hb a'])]), "'hb a' is claimed twice", 'remove one'),
}

@pytest.mark.parametrize('case', MISTAKES)
def test_a_mistake_is_named_with_concept_file_and_remedy(case):
    entry, problem, remedy = MISTAKES[case]
    for source in SOURCES: # whichever source is asked for, the whole dictionary is checked
        with pytest.raises(ConfigError) as e: load_concepts(source, groups={'lab': {'crea': entry}})
        said = str(e.value)
        assert said.startswith('concept crea (labs.toml): ') and problem in said and remedy in said, said

def test_the_entry_from_which_the_mistakes_are_made_is_right():
    c, = load_concepts('mimiciv', groups={'lab': {'crea': LAB | dict(mimiciv=at(), convert={'mmol/L': 2.})}})
    assert c.unit == 'mg/dL' and c.bindings[0].ids == ('1',)
    m, = load_concepts('kmimic', groups={'vital': {'m': MODE | dict(levels=dict(a=['p-cmv'], b=['cmv', r'\bps\b', 'psv']), kmimic=at('chartevents'))}})
    assert [k for k,_ in m.levels] == ['a', 'b']

@pytest.mark.parametrize('group,entry,problem', [
    ('intake', dict(unit='mL', low=0, high=9), 'volumes are summed'), ('output', dict(unit='mL', low=0, high=9, agg='last'), 'volumes are summed'),
    ('infusion', dict(unit='mL', low=0, high=9), 'an infusion is a rate'),
    ('infusion', dict(unit='mL/hr', low=1, high=9, agg='rate'), 'a rate starts at 0'),
    ('infusion', dict(unit='mL/hr', low=0, high=9, agg='rate', mimiciv=at('chartevents')), 'cannot come from chartevents'),
    ('infusion', dict(unit='mcg/min', low=0, high=9, agg='rate', kmimic=at('emar', concentration=[4, 'mcg'])), 'unreadable concentration'),
    ('infusion', dict(unit='mcg/min', low=0, high=9, agg='rate', kmimic=[*at('emar', concentration=[4, 'mcg/mL']), *at('emar', ids=[2])]),
     'different concentration')])
def test_an_hour_is_formed_as_its_group_needs(group, entry, problem):
    with pytest.raises(ConfigError, match=problem): load_concepts('mimiciv', groups={group: {'x': entry}})

def test_a_name_or_an_item_belongs_to_one_concept():
    two = {'lab': {'crea': LAB | dict(mimiciv=at())}, 'vital': {'crea': LAB}}
    with pytest.raises(ConfigError, match=r"concept crea .*defined twice, in \['lab', 'vital'\]"): load_concepts('mimiciv', groups=two)
    two = {'lab': {'crea': LAB | dict(mimiciv=at()), 'bun': LAB | dict(mimiciv=at())}}
    with pytest.raises(ConfigError, match=r"concept bun \(labs.toml\): labevents item '1' is claimed twice \(by crea\)"): load_concepts('kmimic', groups=two)
    two['lab']['bun'] = LAB | dict(mimiciv=at('chartevents')) # item numbers are unique within a table only
    assert len(load_concepts('mimiciv', groups=two)) == 2

def test_unknown_sources_and_feature_sets():
    with pytest.raises(ConfigError, match="Did you mean 'mimiciv'"): load_concepts('mimic-iv')
    with pytest.raises(ConfigError, match="'all' or 'core'"): load_concepts('kmimic', 'some')

def test_a_file_of_ones_own(tmp_path):
    path = tmp_path/'ours.toml'
    def own(text): path.write_text(text, encoding='utf-8'); return extended(path)
    groups = own("[vital.temp]\nhigh = 42\n[[vital.temp.kmimic]]\ntable = 'chartevents'\nlabels = ['고막체온 > 체온']\nunit = '℉'\n")
    ours, theirs = ({c.name: c for c in load_concepts('kmimic', groups=g)} for g in (groups, None))
    assert ours['temp'].high == 42 and theirs['temp'].high == 43 and len(ours['temp'].bindings) == 2 and len(theirs['temp'].bindings) == 1
    assert {k: v for k,v in ours.items() if k != 'temp'} == {k: v for k,v in theirs.items() if k != 'temp'}
    for text,problem in (('[vital.temp]\nlow = 99\n', 'ours.toml: concept temp .* needs low <= high'), ('[vitals.hr]\nlow = 3\n', "Did you mean 'vital'"),
                         ('[vital.hr\n', 'cannot be read as TOML')):
        with pytest.raises(ConfigError, match=problem): own(text)
    with pytest.raises(ConfigError, match='cannot be read as TOML'): extended(tmp_path/'nowhere.toml')
    assert dictionary()['vital']['temp']['high'] == 43 # the package's own is untouched

# ---- units ----------------------------------------------------------------------------------------------------------
UNITS = sorted({u for unit,others in VOCABULARY['alias'].items() for u in (unit, *others)})

@given(st.sampled_from(UNITS), st.integers(0, 3), st.booleans())
def test_every_raw_spelling_leads_back_to_its_unit(unit, spaces, upper):
    written = (' '*spaces).join(unit.upper() if upper else unit)
    assert unit_text(written) == unit_text(unit)
    assert {unit_text(f) for f in spellings(unit)} == {unit_text(unit)}

@given(st.sampled_from(sorted(VOCABULARY['convert'])), st.floats(-1e3, 1e3), st.floats(0.01, 1e3))
def test_conversions_are_increasing_and_invert(rule, x, step):
    a, b = rule.split(' -> ')
    factor, offset = conversion(Concept('x', 'lab', unit=b), a)
    assert (x + step)*factor + offset > x*factor + offset
    back = conversion(Concept('x', 'lab', unit=a), b)
    if back: assert (x*factor + offset)*back[0] + back[1] == pytest.approx(x, rel=1e-4, abs=1e-4)

@pytest.mark.parametrize('value,unit,to,expected', [
    (98.6, '℉', '°C', 37), (220.462, 'lbs', 'kg', 100), (70, 'Inch', 'cm', 177.8), (5, 'kPa', 'mmHg', 37.5), (0.4, 'fraction', '%', 40),
    (7500, '/㎕', '10^3/uL', 7.5), (35, 'g/L', 'g/dL', 3.5), (120, 'mg/L', 'mg/dL', 12), (7.5, '×10³/㎕', '/uL', 7500), (14, 'ng/L', 'ng/mL', 0.014)])
def test_conversions_by_hand(value, unit, to, expected):
    factor, offset = conversion(Concept('x', 'lab', unit=to), unit)
    assert value*factor + offset == pytest.approx(expected, rel=1e-3)

@pytest.mark.parametrize('name,value,unit,expected', [
    ('glu', 5.5, 'mmol/L', 99.1), ('crea', 88.4, 'μmol/ℓ', 1.0), ('mg', 2.0, 'mg/dL', 1.646), ('mg', 1.0, 'mmol/L', 2.0), ('k', 4.0, 'mEq/L', 4.0),
    ('cai', 2.4, 'mEq/L', 1.2), ('ca', 2.25, 'mmol/L', 9.02), ('bili', 17.1, 'μmol/L', 1.0), ('chol', 5.0, 'mmol/L', 193), ('nh3', 40, 'umol/L', 68.1),
    ('uric_acid', 300, 'umol/L', 5.04), ('bun', 7.14, 'mmol/L', 20.0), ('lact', 18.0, 'mg/dL', 2.0), ('mchc', 33, '%', 33)])
def test_conversions_of_a_substance_by_hand(name, value, unit, expected):
    concept = next(c for s in ('kmimic', 'mimiciv') for c in load_concepts(s) if c.name == name)
    factor, offset = conversion(concept, unit)
    assert value*factor + offset == pytest.approx(expected, rel=2e-3)

def test_unit_rows_agree_with_conversion_and_have_no_doubles():
    concepts = load_concepts('mimiciv')
    rows = unit_rows(concepts)
    assert len({(k, u) for k,u,_,_ in rows}) == len(rows) and all(u == u.lower() and ' ' not in u for _,u,_,_ in rows)
    assert all(conversion(concepts[k], u) == (f, o) for k,u,f,o in rows)

# ---- the feature set of the paper -----------------------------------------------------------------------------------
def features():
    with open(FEATURES, encoding='utf-8') as f: return list(csv.DictReader(f))

def passed(f)->bool:
    "The paper's cut, as far as the list shows it: limits for charts, labs and outputs, a unit for infusions."
    if f['feature'].startswith('Glasgow') or f['feature'] in ('Vent mode', 'Levin tube-output'): return True
    return {'emar': bool(f['unit']), 'procedureevents': True}.get(f['table'], bool(f['lower'] or f['upper']))

def read_by(f, source='kmimic')->tuple[set[str], list[str]]:
    "The concepts that read the labels of a feature, and the labels that nothing reads."
    owner = {(b.table, label_text(i)): c.name for c in load_concepts(source) for b in c.bindings for i in b.ids}
    found = {l.strip(): owner.get((f['table'], label_text(l))) for l in f['raw_labels'].split(' | ')}
    return {n for n in found.values() if n}, [l for l,n in found.items() if not n]

@listed
def test_the_cut_leaves_the_counts_of_the_paper():
    n = pd.Series([f['table'] for f in features() if passed(f)]).value_counts().to_dict()
    # 22 bedside and ventilator + the ventilator mode; the list has limits for 57 labs where the paper counts 56; 7 of 10 procedure groups are listed
    assert n == dict(chartevents=23, labevents=57, outputevents=8, inputevents=3, emar=15, procedureevents=7)

@listed
@pytest.mark.parametrize('f', features() if FEATURES.exists() else [], ids=lambda f: f['feature'])
def test_every_feature_is_one_concept_or_a_documented_exception(f):
    names, lost = read_by(f)
    split, left_out = exceptions()['split'], exceptions()['left_out']
    assert set(lost) <= set(left_out), f'no concept reads {set(lost) - set(left_out)}'
    assert names, 'no concept reads it at all'
    if f['feature'] in split: assert names == set(split[f['feature']]['concepts']) and len(names) > 1
    else: assert len(names) == 1, names

@listed
def test_exceptions_are_exceptions_and_have_reasons():
    e, by_name = exceptions(), {f['feature']: f for f in features()}
    labels = {l.strip() for f in by_name.values() for l in f['raw_labels'].split(' | ')}
    read = {label_text(i) for c in load_concepts('kmimic') for b in c.bindings for i in b.ids}
    assert set(e['split']) | set(e['renamed']) <= set(by_name) and set(e['left_out']) <= labels
    assert not {label_text(l) for l in e['left_out']} & read
    for feature,r in e['renamed'].items(): assert read_by(by_name[feature])[0] == {r['concept']}
    here, there = ({c.name for c in load_concepts(s)} for s in ('kmimic', 'mimiciv'))
    assert set(e['not_in_mimiciv']) == here - there
    reasons = [r['why'] if isinstance(r, dict) else r for part in e.values() for r in part.values()]
    assert all(len(r.split()) >= 2 for r in reasons)
    assert {label_text(l) for l in labels} >= read, 'a label that the list does not have'

@listed
@pytest.mark.parametrize('f', [f for f in features() if f['unit']] if FEATURES.exists() else [], ids=lambda f: f['feature'])
def test_the_units_of_the_registry_are_understood(f):
    concepts = load_concepts('kmimic')
    for k,c in ((k, c) for k,c in enumerate(concepts) if c.name in read_by(f)[0]):
        if c.agg == 'rate': continue # rates have an algebra of their own
        assert conversion(c, f['unit']) == (1, 0)
        raw = re.sub(r'\s', '', f['unit'].lower())
        assert (k, raw, 1.0, 0.0) in unit_rows(concepts), f'{raw} as DuckDB compares it'

NARROWER = {'pH': 'upper 10 becomes 8: no blood survives it', 'FiO2': 'lower 0 becomes 20: room air is 21 %'}

@listed
@pytest.mark.parametrize('f', [f for f in features() if passed(f) and f['upper']] if FEATURES.exists() else [], ids=lambda f: f['feature'])
def test_ranges_hold_what_the_original_held(f):
    low, high = float(f['lower']), float(f['upper'])
    for c in (c for c in load_concepts('kmimic') if c.name in read_by(f)[0]):
        if f['feature'] in NARROWER: assert c.low > low or c.high < high
        elif c.agg != 'rate': # an exclusive lower limit of 0 is the smallest charted value here
            assert c.high >= high and c.low <= low + c.precision*(low == 0)
            if low == 0 and float(f['lower_inclusive']) == 1: assert c.low == 0

def test_physiological_ends_are_inside():
    c = {c.name: c for s in SOURCES for c in load_concepts(s)}
    assert all(c[n].high == 100 for n in ('o2sat', 'sao2', 'fio2', 'lymph', 'neut', 'eos'))
    zeros = [n for n,x in c.items() if x.group in ('output', 'intake', 'infusion')] + ['peep', 'resp', 'o2_flow', 'wbc', 'anc', 'eos', 'baso', 'be']
    assert all(c[n].low <= 0 for n in zeros)
    assert (c['egcs'].low, c['egcs'].high, c['vgcs'].high, c['mgcs'].high, c['tgcs'].low, c['tgcs'].high) == (1, 4, 5, 6, 3, 15)

def test_challenge_2012_has_its_37_parameters():
    ids = [i for c in load_concepts('challenge2012') for b in c.bindings for i in b.ids]
    assert sorted(ids) == sorted('''ALP ALT AST Albumin BUN Bilirubin Cholesterol Creatinine DiasABP FiO2 GCS Glucose HCO3 HCT HR K Lactate MAP MechVent Mg
        NIDiasABP NIMAP NISysABP Na PaCO2 PaO2 Platelets RespRate SaO2 SysABP Temp TroponinI TroponinT Urine WBC Weight pH'''.split())

def test_every_file_is_documented():
    for p in sorted(FOLDER.glob('*.toml')):
        head = p.read_text(encoding='utf-8').split('\n\n')[0]
        assert head.startswith('# ') and len(head.split()) > 15 and ('Sources' in head or p.name == 'units.toml'), p.name

def test_the_table_counts_what_stands_in_the_files():
    t, files = concept_table().set_index('concept'), dictionary()
    assert list(t.index) == [n for entries in files.values() for n in entries]
    assert t.loc['temp', ['unit', 'low', 'high', 'precision', 'agg', 'kmimic', 'mimiciv', 'challenge2012']].tolist() == ['°C', 25, 43, 0.1, 'mean', 1, 5, 1]
    assert t.challenge2012.sum() == 37 and t.core.sum() == len({c.name for s in SOURCES for c in load_concepts(s) if c.core})

def test_a_stated_concentration_reads_volumes_and_none_is_guessed():
    concepts = {c.name: c for c in load_concepts('kmimic') if c.agg == 'rate'}
    assert {n for n,c in concepts.items() if c.concentration} == {'dexmedetomidine', 'propofol'}
    for name,expected in (('dexmedetomidine', 10*4/60), ('propofol', 10*20_000/60), ('norepinephrine', None)): # 10 cc/hr, in mcg/min
        (factor, power, volume), = [r[2:] for r in rate_rows([concepts[name]]) if r[1] == 'cc/hr']
        assert volume == (expected is None) and (expected is None or (10*factor == pytest.approx(expected) and power == -1)) # divided by the weight

# ---- ventilator modes -----------------------------------------------------------------------------------------------
MODES = {'standby': ['Standby', 'Vent off'], 'noninvasive': ['NIV', 'NIV-ST', 'BiPAP S/T', 'HFNC', 'High flow nasal cannula', 'Mask CPAP', '비침습'],
         'controlled': ['CMV/ASSIST/AutoFlow', 'APV (cmv)', 'P-CMV', 'AC/PC', 'AC/VC', 'A/C', 'AC', 'SIMV', 'SIMV(PC)+PS', 'PCV', 'VC', 'PRVC', 'APRV',
                        'Volume control', 'Pressure Control', 'PC/AC'],
         'spontaneous': ['PSV', 'CPAP', 'CPAP/PSV', 'CPAP/PSV+ApnVol', 'PSV/SBT', 'MMV/PSV/AutoFlow', 'SPONT', 'VS', 'ASV', 'Pressure support', 'Volume support',
                         'PS', 'NAVA', 'T-piece', '자발호흡'],
         None: ['', 'other', 'packed', 'vcx']}

def level(text):
    levels = next(c for c in load_concepts('kmimic') if c.name == 'vent_mode').levels
    return next((k for k,patterns in levels if any(re.search(p, text.lower()) for p in patterns)), None)

@pytest.mark.parametrize('expected,text', [(k, t) for k,texts in MODES.items() for t in texts])
def test_ventilator_modes(expected, text): assert level(text) == expected

# ---- open data ------------------------------------------------------------------------------------------------------
def documented_ids():
    "Every MIMIC-IV item in the files with the comment beside it."
    for p in sorted(FOLDER.glob('*.toml')):
        for line in p.read_text(encoding='utf-8').splitlines():
            if not re.match(r'(ids = \[|  )\d', line): continue
            for i in re.findall(r'\d+', line.partition('#')[0]): yield i, line.partition('# ')[2]

@demo
def test_item_numbers_are_what_the_comments_say():
    items = pd.read_csv(DEMO/'icu'/'d_items.csv.gz', dtype=str).set_index('itemid')
    labs = pd.read_csv(DEMO/'hosp'/'d_labitems.csv.gz', dtype=str).set_index('itemid')
    said = dict(documented_ids())
    bound = [(c, b, i) for c in load_concepts('mimiciv') for b in c.bindings for i in b.ids]
    assert {i for _,_,i in bound} == set(said) and len(bound) > 350
    for c,b,i in bound:
        known = labs if b.table == 'labevents' else items
        label = f'category {items.category[i]}' if said[i].startswith('category') else known.label[i].strip()
        assert said[i] == label, f'{c.name}: {i} is {label!r}, not {said[i]!r}'
        if b.table == 'labevents': assert labs.fluid[i] == ('Urine' if 'urine' in c.name or c.name == 'sg' else 'Blood')
        else:
            assert items.linksto[i] == b.table
            unit = items.unitname[i]
            if c.agg != 'rate' and c.kind == 'numerical' and isinstance(unit, str) and unit != 'None': assert conversion(c, unit) == conversion(c, b.unit), c.name

@demo
def test_no_item_of_a_listed_test_was_missed():
    "Every laboratory item of the demo with rows, of blood, and with the label of a bound item is bound."
    labs = pd.read_csv(DEMO/'hosp'/'d_labitems.csv.gz', dtype=str)
    bound = {i for c in load_concepts('mimiciv') for b in c.bindings if b.table == 'labevents' for i in b.ids}
    names = set(labs[labs.itemid.isin(bound) & (labs.fluid == 'Blood')].label)
    rows = pd.read_csv(DEMO/'hosp'/'labevents.csv.gz', usecols=['itemid'], dtype=str).itemid.unique()
    twins = labs[(labs.fluid == 'Blood') & labs.label.isin(names) & labs.itemid.isin(rows)]
    assert len(twins) > 60 and set(twins.itemid) <= bound, twins[~twins.itemid.isin(bound)]

EXPLAINED = {'cvp': 'a transducer open to the flush or the artery: 75 to 337 mmHg (comment in vitals.toml)'}

def shares(report)->pd.DataFrame:
    t = report.table
    t = t[(t.stage == 'events') & (t['item'] != '') & t.reason.isin([KEPT, 'out of range', 'unknown unit', 'unknown level'])]
    return t.pivot_table(index='item', columns='reason', values='rows', aggfunc='sum', fill_value=0)

@pytest.fixture(scope='module')
def wide():
    every = DataConfig(hours=24*31, age_low=0, age_high=130, los_low=0, los_high=1000, min_hours=0, min_people=1, at_precision=False)
    return load_cohort('mimiciv', DEMO, cfg=every)

@demo
def test_hardly_any_row_of_the_demo_is_out_of_range(wide):
    s = shares(wide[1])
    assert 'unknown unit' not in s and 'unknown level' not in s, 'a unit or a ventilator mode that the dictionary does not know'
    share = s['out of range']/s.sum(axis=1)
    assert share.max() > 0 and len(share) > 110
    many = set(share.index[share > 0.005])
    assert many == set(EXPLAINED), share[share > 0.005]

@demo
def test_charting_steps_lose_nothing_that_matters(wide):
    "Rounding to the charting step moves the typical value by less than 2 %."
    c, worst = wide[0], {}
    for f in c.schema.values:
        v = c.value(f.name).astype(float)
        v = np.abs(v[~np.isnan(v) & (v != 0)])
        if len(v) and f.precision: worst[f.name] = np.median(np.abs(np.round(v/f.precision)*f.precision - v))/np.median(v)
    assert len(worst) > 100 and max(worst.values()) < 0.02, sorted(worst.items(), key=lambda x: -x[1])[:5]

@challenge
def test_hardly_any_row_of_challenge_2012_is_out_of_range(tmp_path):
    (tmp_path/'set-b.tar.xz').symlink_to(CHALLENGE/'set-b.tar.xz')
    _, report = load_cohort('challenge2012', tmp_path, ['data.hours=48', 'data.min_hours=1'])
    s = shares(report).drop(index='descriptor')
    share = s['out of range']/s.sum(axis=1)
    assert len(share) == 37 and 0 < share.max() < 0.005, share.sort_values()[-3:]

@demo
def test_every_ventilator_mode_of_the_demo_has_a_level():
    chart = pd.read_csv(DEMO/'icu'/'chartevents.csv.gz', usecols=['itemid', 'value'])
    texts = chart[chart.itemid.isin([223849, 229314])].value.unique()
    assert len(texts) > 15 and not [t for t in texts if level(t) is None]

def test_item_rows_carry_the_conversion_of_their_place():
    concepts = load_concepts('mimiciv')
    rows = {i: (concepts[k].name, round(f, 4), round(o, 2)) for t in ('chartevents', 'labevents') for i,k,f,o in item_rows(concepts, t)}
    assert rows['223761'] == ('temp', 0.5556, -17.78) and rows['52075'] == ('anc', 1000, 0) and rows['50889'] == ('crp', 0.1, 0) and rows['50960'] == ('mg', 0.8229, 0)
    assert not [i for a,b in itertools.combinations(('chartevents', 'labevents'), 2) for i in {r[0] for r in item_rows(concepts, a)} & {r[0] for r in item_rows(concepts, b)}]
