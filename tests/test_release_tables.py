"A synthetic cohort written as registry tables: it comes back, it agrees with itself, and planted faults are found."
import dataclasses
import gzip
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from synkmimic.core import SynkError
from synkmimic.release.check import check_release, write_hashes, write_release_check
from synkmimic.release.tables import differences, write_tables
from synkmimic.simulate import simulate_registry
from synkmimic.sources.load import load_cohort

CASES = [('kmimic', 'csv.gz'), ('kmimic', 'parquet'), ('mimiciv', 'csv.gz'), ('mimiciv', 'parquet'), ('meds', 'parquet')]
OPTIONS = ['data.min_people=1', 'data.hours=24', 'data.threads=1', 'data.nationality=two_levels', 'data.code_group=full']

@pytest.fixture(scope='module')
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp('registry')/'r'
    simulate_registry(root, n_stays=80, seed=1)
    return load_cohort('simulated', root, OPTIONS)[0]

@pytest.fixture(scope='module')
def releases(cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp('releases')
    return {(k, f): write_tables(cohort, root/f'{k}_{f}', k, f, seed=3, chunk_stays=25) for k,f in CASES}

def back(release): return load_cohort(release.layout, release.folder, cfg=dataclasses.replace(release.options, threads=1))[0]

def unexplained(release, diff):
    lost = release.left_out.groupby('feature').rows.sum()
    return diff[diff.differing != diff.feature.map(lost).fillna(0)]

@pytest.mark.parametrize('case', CASES, ids='-'.join)
def test_round_trip(cohort, releases, case):
    release = releases[case]
    again = back(release)
    diff = differences(cohort, again, release)
    assert not len(unexplained(release, diff)), unexplained(release, diff)
    if case[0] == 'kmimic':
        assert diff.differing.sum() == 0 and diff.worst.max() == 0 and not len(release.left_out)
        assert again.schema.values == cohort.schema.values and again.schema.flags == cohort.schema.flags
    else:
        assert 0 < diff.differing.sum() < 0.2*diff.charted.sum()
        carried = diff[~diff.feature.isin(release.left_out.feature)]
        assert carried.differing.sum() == 0 and carried.charted.sum() > 20_000

def test_the_comparison_sees_every_kind_of_difference(cohort, releases):
    release = releases['kmimic', 'parquet']
    again = back(release)
    seen = lambda c: set(differences(cohort, c, release).query('differing > 0').feature)
    assert seen(again) == set()
    changes = dict(values='hr', flags=cohort.schema.flags[0].name, states='careunit')
    for part,name in changes.items():
        x, k = getattr(again, part).copy(), again.schema.index(part, name)
        x[3, 0, k] = dict(values=np.nan if not np.isnan(x[3, 0, k]) else 80, flags=1 - x[3, 0, k], states=-1)[part]
        assert seen(dataclasses.replace(again, **{part: x})) == {name}
    k = again.schema.index('values', 'hr')
    assert seen(dataclasses.replace(again, values=again.values + (np.arange(again.values.shape[-1]) == k))) == {'hr'}
    assert seen(dataclasses.replace(again, outcome=(again.outcome + 1) % 3)) == {'outcome'}
    assert seen(dataclasses.replace(again, static=again.static.assign(sex=again.static.sex.map({'F': 'M', 'M': 'F'})))) == {'sex'}
    assert 'stay' in seen(again.take(np.arange(5, len(again))))
    assert 'person' in seen(dataclasses.replace(again, subject_id=again.stay_id))

def test_numbers_between_the_steps_come_back_within_half_a_step(cohort, tmp_path):
    g = np.random.default_rng(0)
    step = np.array([0 if f.agg == 'rate' else f.precision for f in cohort.schema.values])
    low, high = (np.array([getattr(f, k) for f in cohort.schema.values]) for k in ('low', 'high'))
    moved = np.clip(cohort.values + g.uniform(-0.45, 0.45, cohort.values.shape)*step, low, high)
    c = dataclasses.replace(cohort, values=moved).validate()
    release = write_tables(c, tmp_path/'r', 'kmimic', 'parquet')
    diff = differences(c, back(release), release)
    assert diff.differing.sum() == 0 and 0.3 < diff.worst.max() <= 0.501

def test_the_tables_tell_one_story(releases):
    r = releases['kmimic', 'parquet']
    sql = lambda q: duckdb.sql(q.replace('@', f'{r.folder}/')).fetchall()[0]
    a, i = "read_parquet('@hosp/admissions.parquet')", "read_parquet('@icu/icustays.parquet')"
    dead, wrong = sql(f"""SELECT sum(hospital_expire_flag), count(*) FILTER ((hospital_expire_flag = 1) <> (deathtime IS NOT NULL)
        OR (hospital_expire_flag = 1) <> (discharge_location = 'Died') OR deathtime > dischtime OR admittime >= dischtime) FROM {a}""")
    assert dead > 3 and wrong == 0
    assert sql(f"""SELECT count(*) FROM {i} JOIN {a} a USING (hadm_id) WHERE intime < admittime OR outtime > dischtime
        OR (icu_expire_flag = 1) <> (coalesce(deathtime <= outtime, false))""") == (0,)
    for table,stay,low,high in (('icu/chartevents', 'stay_id', 'charttime', 'charttime'), ('hosp/labevents', 'stay_id', 'charttime', 'charttime'),
                                ('icu/outputevents', 'icustay_id', 'charttime', 'charttime'), ('icu/inputevents', 'icustay_id', 'starttime', 'endtime'),
                                ('icu/procedureevents', 'stay_id', 'starttime', 'endtime'), ('hosp/emar', 'stay_id', 'charttime', 'charttime')):
        n, bad = sql(f"""SELECT count(*), count(*) FILTER (e.{low} < intime OR e.{high} > outtime OR e.{high} < e.{low} OR e.{low} >= outtime
            OR e.{low} >= deathtime) FROM read_parquet('@{table}.parquet') e JOIN {i} i ON i.stay_id = e.{stay} JOIN {a} a ON a.hadm_id = i.hadm_id""")
        assert n == r.rows[table] and bad == 0, table
    assert sql("""SELECT count(*) FROM read_parquet('@hosp/emar.parquet') e ANTI JOIN read_parquet('@hosp/emar_detail.parquet') d
        ON d.emar_id = e.emar_id AND d.emar_seq = e.emar_seq""") == (0,)
    year, last = sql(f"SELECT min(year(intime)), max(year(intime)) FROM {i}")
    assert 2500 <= year < last < 3070
    minutes = sql("SELECT count(DISTINCT minute(charttime)), avg((minute(charttime) = 0)::int) FROM read_parquet('@icu/chartevents.parquet')")
    assert minutes[0] > 10 and 0.4 < minutes[1] < 0.8

def test_ids_are_new_and_seeds_decide(cohort, tmp_path):
    some = cohort.take(range(10))
    a, b, other = (write_tables(some, tmp_path/str(k), seed=s) for k,s in enumerate((0, 0, 1)))
    read = lambda r: {p.name: gzip.decompress(p.read_bytes()) for p in r.folder.rglob('*.gz')}
    assert read(a) == read(b) != read(other)
    text = b''.join(read(a).values())
    assert not any(str(i).encode() in text for i in (*some.stay_id, *some.subject_id))
    y = write_tables(some, tmp_path/'y', start_year=2300, years=3)
    assert pd.read_csv(y.folder/'icu'/'icustays.csv.gz').intime.str[:4].astype(int).between(2300, 2310).all()

def test_what_cannot_be_carried_is_in_the_account(cohort, tmp_path):
    odd = cohort.take(np.arange(len(cohort)))
    odd.static.loc[odd.outcome == 0, 'discharge_location'] = 'Died'
    wide = tuple(dataclasses.replace(f, high=900.) if f.name == 'sbp' else f for f in odd.schema.values)
    new = dataclasses.replace(odd.schema.feature('hr'), name='hr_of_mars')
    odd = dataclasses.replace(odd, schema=dataclasses.replace(odd.schema, values=(*wide, new)),
                              values=np.concatenate([odd.values, odd.values[..., [odd.schema.index('values', 'hr')]]], -1))
    odd.values[1, 0, odd.schema.index('values', 'sbp')] = 800
    odd.static.loc[0, 'los'] = 9.99 if odd.length[0] < 24 else 0.01
    release = write_tables(odd, tmp_path/'r', 'kmimic', 'parquet')
    said = release.left_out.set_index('feature').rows.to_dict()
    assert said == dict(discharge_location=int((odd.outcome == 0).sum()), sbp=1, los=1, hr_of_mars=int(odd.mask[..., -1].sum()))
    assert not len(unexplained(release, differences(odd, back(release), release)))

def test_people_who_contradict_themselves_are_split(cohort, tmp_path):
    one = dataclasses.replace(cohort, subject_id=np.full(len(cohort), 'somebody')) # both sexes, several deaths
    release = write_tables(one, tmp_path/'r', 'kmimic', 'parquet')
    assert release.left_out[['table', 'rows']].values.tolist() == [['patients', len(cohort)]]
    assert release.stays.subject_id.nunique() == len(cohort)
    women = one.take(np.flatnonzero((one.static.sex == 'F') & (one.outcome == 0))[:6])
    release = write_tables(women, tmp_path/'w', 'kmimic', 'parquet')
    span = women.static.age.max() - women.static.age.min()
    assert release.stays.subject_id.nunique() == (1 if span < 60 else len(women))

def test_refusals(cohort, tmp_path):
    for layout,form,said in (('mimic', None, 'mimiciv'), ('meds', 'csv.gz', 'Parquet'), ('kmimic', 'csv', 'csv.gz')):
        with pytest.raises(SynkError, match=said): write_tables(cohort, tmp_path/'r', layout, form)
    other = dataclasses.replace(cohort, schema=dataclasses.replace(cohort.schema, outcomes=('survived', 'died', 'hospital_death')))
    with pytest.raises(SynkError, match='died'): write_tables(other, tmp_path/'r')
    assert not (tmp_path/'r').exists()

def test_one_liners(releases):
    csv, parquet = releases['kmimic', 'csv.gz'].folder, releases['mimiciv', 'parquet'].folder
    top = duckdb.sql(f"SELECT label, avg(valuenum) AS mean FROM '{csv}/icu/chartevents.csv.gz' JOIN '{csv}/icu/d_items.csv.gz' USING (itemid) GROUP BY label").df()
    assert top.set_index('label')['mean'].between(-50, 2000).any() and len(top) > 15
    assert pd.read_csv(csv/'hosp'/'patients.csv.gz').subject_id.is_unique
    assert pd.read_csv(csv/'icu'/'icustays.csv.gz', parse_dates=['intime', 'outtime']).eval('outtime > intime').all()
    labs = pd.read_parquet(parquet/'hosp'/'labevents.parquet').merge(pd.read_parquet(parquet/'hosp'/'d_labitems.parquet'), on='itemid')
    assert len(labs) == releases['mimiciv', 'parquet'].rows['hosp/labevents']
    dead = duckdb.sql(f"SELECT avg(hospital_expire_flag) FROM '{parquet}/hosp/admissions.parquet'").fetchall()[0][0]
    assert 0 < dead < 0.5
    meds = releases['meds', 'parquet'].folder
    assert duckdb.sql(f"SELECT count(DISTINCT subject_id) FROM '{meds}/data/**/*.parquet' WHERE code = 'MEDS_BIRTH'").fetchall()[0][0] > 50

def test_meds_schema(releases):
    meds, r = pytest.importorskip('meds'), releases['meds', 'parquet']
    shards = sorted((r.folder/'data').rglob('*.parquet'))
    tables = [pq.read_table(p) for p in shards]
    for t in tables: meds.DataSchema.validate(t)
    meds.CodeMetadataSchema.validate(pq.read_table(r.folder/meds.code_metadata_filepath))
    splits = pq.read_table(r.folder/meds.subject_splits_filepath)
    meds.SubjectSplitSchema.validate(splits)
    meds.DatasetMetadataSchema.validate(pd.read_json(r.folder/meds.dataset_metadata_filepath, typ='series').to_dict())
    people = [set(t['subject_id'].to_pylist()) for t in tables]
    assert len(shards) > 1 and sum(map(len, people)) == len(set.union(*people)) == len(splits)
    for t in tables: # a person's rows are together, in the order of time, those without a time first
        d = t.select(['subject_id', 'time']).to_pandas()
        assert d.subject_id.is_monotonic_increasing
        assert d.groupby('subject_id').time.apply(lambda s: s.fillna(pd.Timestamp(0)).is_monotonic_increasing).all()

# --- the release check

@pytest.mark.parametrize('case', CASES, ids='-'.join)
def test_a_whole_release_has_no_findings(releases, case):
    folder = releases[case].folder
    write_release_check(folder)
    assert check_release(folder).values.tolist() == []
    run = subprocess.run([sys.executable, '-I', str(folder/'release_check.py')], capture_output=True, text=True)
    assert run.returncode == 0 and 'as they were released' in run.stdout, run.stdout + run.stderr
    assert 'synkmimic' not in (folder/'release_check.py').read_text()

def edit(folder, table, change):
    "Change one table of a CSV release."
    path = folder/f'{table}.csv.gz'
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)

def put(column, value):
    def change(d):
        d.loc[len(d)//2, column] = value
        return d
    return change

FAULTS = {'range': ('icu/chartevents', put('valuenum', '99999'), 'range'), 'orphan stay': ('hosp/labevents', put('stay_id', 'nobody'), 'orphan'),
          'orphan item': ('icu/outputevents', put('itemid', 'S01O_77'), 'orphan'), 'text for number': ('icu/inputevents', put('amount', 'much'), 'type'),
          'time': ('icu/chartevents', put('charttime', '2499-01-01 00:00:00'), 'time'), 'no time': ('icu/chartevents', put('charttime', 'noon'), 'type'),
          'lost time': ('icu/chartevents', put('charttime', ''), 'time'), 'orphan person': ('hosp/admissions', put('subject_id', 'nobody'), 'orphan'),
          'flag': ('hosp/admissions', put('hospital_expire_flag', '1'), 'story'),
          'end': ('icu/procedureevents', put('endtime', '2499-01-01 00:00:00'), 'time'),
          'row lost': ('hosp/emar', lambda d: d.drop(index=0), 'count'),
          'column': ('hosp/transfers', lambda d: d.rename(columns=dict(careunit='unit')), 'schema'),
          'twice': ('hosp/patients', lambda d: d.assign(subject_id=d.subject_id.iloc[0]), 'key')}

@pytest.mark.parametrize('fault', FAULTS)
def test_planted_faults(cohort, tmp_path, fault):
    folder, (table, change, check) = tmp_path/'r', FAULTS[fault]
    alive = cohort.take(np.flatnonzero(cohort.outcome == 0)[:15])
    write_tables(alive, folder, 'kmimic', 'csv.gz')
    write_release_check(folder)
    edit(folder, table, change)
    found = check_release(folder)
    assert {('hash', f'{table}.csv.gz'), (check, table)} <= set(zip(found.check, found['where'])), found
    write_hashes(folder) # as a careless publisher would
    found = check_release(folder)
    assert 'hash' not in set(found.check) and (check, table) in set(zip(found.check, found['where']))
    assert not any(v in ' '.join(found.problem) for v in ('99999', 'nobody', 'S01O_77', '2499'))

def test_files_changed_missing_added(cohort, tmp_path):
    folder = tmp_path/'r'
    write_tables(cohort.take(range(6)), folder, 'meds')
    write_release_check(folder)
    shard = folder/'data'/'train'/'0.parquet'
    raw = bytearray(shard.read_bytes())
    raw[len(raw)//2] ^= 1
    shard.write_bytes(raw)
    assert ('hash', 'data/train/0.parquet') in set(zip(*check_release(folder)[['check', 'where']].T.values))
    shard.unlink()
    (folder/'more.txt').write_text('x')
    found = check_release(folder)
    assert {('missing', 'data/train/0.parquet'), ('missing', 'data'), ('unlisted', 'more.txt')} <= set(zip(found.check, found['where']))
    run = subprocess.run([sys.executable, '-I', str(folder/'release_check.py')], capture_output=True, text=True)
    assert run.returncode == 1 and 'missing' in run.stdout
    (folder/'SHA256SUMS').unlink()
    assert check_release(folder).check.tolist() == ['missing']
