"Bad input: one clear error, or a counted drop; and the counts add up to the rows of the files."
import gzip
import shutil

import numpy as np
import pandas as pd
import pytest
from test_sources import COLUMNS, DataConfig, Registry, adds_up, hours, load, load_cohort, one

from synkmimic.core import DataError

OPTIONS = dict(min_people=1, at_precision=False)

def written(registry, tmp_path):
    root = registry.write(tmp_path/'registry')
    return root, lambda **k: load_cohort('kmimic', root, cfg=DataConfig(**(OPTIONS | k)))

def many(n=3000):
    "A registry whose chart is large enough to be cut in the middle."
    r = one()
    for i in range(n): r.chart('HR', f'{10 + i % 12:02d}:{i % 60:02d}', 60 + i % 50)
    return r

def rewrite(root, table, change, name=None):
    "Change the text of a CSV table; maybe under another name."
    path = root/f'{table}.csv'
    data = change(path.read_text(encoding='utf-8'))
    path.unlink()
    (root/(name or f'{table}.csv')).write_bytes(data if isinstance(data, bytes) else data.encode())

@pytest.mark.parametrize('keep', [.3, .6, .999])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path, keep):
    root, read = written(many(), tmp_path)
    rewrite(root, 'icu/chartevents', lambda t: gzip.compress(t.encode())[:int(len(gzip.compress(t.encode()))*keep)], 'icu/chartevents.csv.gz')
    with pytest.raises(DataError, match='cut short.*chartevents.*Copy it again'): read()

def test_bytes_that_are_no_gzip_are_an_error(tmp_path):
    root, read = written(one(), tmp_path)
    rewrite(root, 'icu/outputevents', lambda t: t, 'icu/outputevents.csv.gz')
    with pytest.raises(DataError, match='outputevents'): read()

def test_an_empty_file_is_an_error_and_a_table_without_rows_is_not(tmp_path):
    root, read = written(one(), tmp_path)
    (root/'icu'/'outputevents.csv').write_bytes(b'')
    with pytest.raises(DataError, match='the file is empty.*outputevents'): read()
    (root/'icu'/'outputevents.csv').write_text(','.join(COLUMNS['icu/outputevents'].split()) + '\n')
    assert len(read()[0]) == 1

@pytest.mark.parametrize('encoding', ['cp949', 'euc-kr', 'utf-8', 'utf-8-sig'])
@pytest.mark.parametrize('zipped', [False, True])
def test_korean_encodings_are_read(tmp_path, encoding, zipped):
    want, _ = load(one(), tmp_path/'plain')
    root, read = written(one(), tmp_path)
    pack = gzip.compress if zipped else bytes
    for table in ('icu/d_items', 'icu/icustays'): rewrite(root, table, lambda t: pack(t.encode(encoding)), table + '.csv' + '.gz'*zipped)
    assert read()[0].fingerprint() == want.fingerprint()

def test_text_in_an_unknown_encoding_names_the_option(tmp_path):
    root, read = written(one(), tmp_path)
    rewrite(root, 'icu/d_items', lambda t: t.encode('utf-16'))
    with pytest.raises(DataError, match='data.encoding'): read()

def test_text_that_turns_bad_late_names_the_option(tmp_path):
    root, read = written(one(), tmp_path)
    row = "s1,HR,3021-05-01 10:10:00,80,80,bpm\n"
    rewrite(root, 'icu/chartevents', lambda t: (t + row*150_000).encode() + "s1,HR,3021-05-01 10:10:00,80,80,심박/분\n".encode('cp949'))
    with pytest.raises(DataError, match='not UTF-8.*data.encoding=cp949'): read()
    assert len(read(encoding='cp949')[0]) == 1

def test_ids_with_a_decimal_tail_meet_those_without(tmp_path):
    r = Registry().stay('30000153', '10001', '20001').chart('HR', '10:30', 80, stay='30000153').out('FOLEY', '10:05', 30, stay='30000153')
    root, read = written(r, tmp_path)
    want = read()[0]
    for table in ('icu/chartevents', 'icu/outputevents'): rewrite(root, table, lambda t: t.replace('30000153,', '30000153.0,'))
    rewrite(root, 'hosp/admissions', lambda t: t.replace('20001,', '20001.0,'))
    frame = pd.read_csv(root/'icu'/'icustays.csv').astype(dict(subject_id='float64')) # ids as floating point in Parquet
    frame.to_parquet(root/'icu'/'icustays.parquet')
    (root/'icu'/'icustays.csv').unlink()
    assert read()[0].fingerprint() == want.fingerprint()

def test_rows_written_twice_count_once_and_are_counted(tmp_path):
    r = one().chart('HR', '10:30', 80).chart('HR', '10:30', 80).chart('HR', '10:30', 90).out('FOLEY', '10:05', 30).out('FOLEY', '10:05', 30)
    r.give('10:00', '11:00', 60).give('10:00', '11:00', 60)
    c, report = load(r, tmp_path)
    assert hours(c, 'hr', 1) == [85] and hours(c, 'urine_foley', 1) == [30] and hours(c, 'iv_in', 1) == [60]
    assert [report.dropped(t)['duplicate row'] for t in ('icu/chartevents', 'icu/outputevents', 'icu/inputevents')] == [2, 1, 1]

def test_a_stay_that_ends_before_it_starts_is_dropped_and_counted(tmp_path):
    r = one().stay('s2', 'p2', t0='3021-05-02 10:00:00', t1='3021-05-01 10:00:00').chart('HR', '10:10', 70, stay='s2')
    c, report = load(r, tmp_path)
    assert list(c.stay_id) == ['s1'] and report.dropped('icu/icustays')['leaves before it enters'] == 1
    assert report.dropped('icu/chartevents')['stay filtered out'] == 1

def test_events_outside_the_stay_and_of_nobody_are_counted(tmp_path):
    r = one().chart('HR', '09:59', 1).chart('HR', '3021-05-03 10:00:00', 2).chart('HR', '10:10', 3, stay='nobody').chart('HR', 'yesterday', 4)
    c, report = load(r, tmp_path)
    assert report.dropped('icu/chartevents') == {'kept': 1, 'before admission': 1, 'outside the stay': 1, 'stay unknown': 1, 'no time': 1}
    assert np.nansum(c.value('hr')) == 80

def test_unknown_units_are_counted_and_listed(tmp_path):
    r = one().chart('BT', '10:10', 37, '℃').chart('BT', '10:20', 310, 'Kelvin').chart('BT', '10:30', 311, 'Kelvin').chart('BT', '10:40', 98.6, 'F')
    c, report = load(r, tmp_path)
    assert hours(c, 'temp', 1) == [37] and report.dropped('icu/chartevents')['unknown unit'] == 2
    listed = report.table.query("stage == 'units'")
    assert listed[['item', 'reason', 'rows']].values.tolist() == [['temp', 'unknown unit: Kelvin', 2]]

def test_words_where_numbers_belong_drop_a_row_not_the_run(tmp_path):
    r = one().chart('HR', '10:40', 'high').chart('HR', '10:50', '<40').chart('HR', '10:55', 'inf').chart('HR', '10:58', '')
    c, report = load(r, tmp_path)
    d = report.dropped('icu/chartevents')
    assert (d['no number'], d['only a limit (< or >)']) == (3, 1) and hours(c, 'hr', 1) == [80]

def test_other_files_in_the_folder_do_not_matter(tmp_path):
    root, read = written(one(), tmp_path)
    want = read()[0].fingerprint()
    for name in ('icu/notes.txt', 'icu/.DS_Store', 'hosp/chartevents.csv', 'backup.zip'): (root/name).write_bytes(b'\x00\xffjunk')
    shutil.copytree(root/'icu', root/'icu'/'old')
    assert read()[0].fingerprint() == want

def test_a_table_in_two_formats_is_an_error(tmp_path):
    root, read = written(one(), tmp_path)
    shutil.copy(root/'icu'/'chartevents.csv', root/'icu'/'chartevents.csv.gz')
    with pytest.raises(DataError, match='exists twice'): read()

def test_everything_at_once_still_adds_up(tmp_path):
    r = many(400).stay('s2', 'p2', t0='3021-05-02 10:00:00', t1='3021-05-01 10:00:00').stay('s3', 'p3', age='9 years')
    for stay in ('s1', 's2', 's3', 'nobody'):
        r.chart('HR', '10:30', 80, stay=stay).chart('BT', '10:30', 310, 'Kelvin', stay=stay).chart('XX', '10:30', 1, stay=stay).chart('HR', '', 1, stay=stay)
        r.out('FOLEY', '09:00', 5, stay=stay).out('FOLEY', '10:20', -1, stay=stay).give('12:00', '11:00', 5, stay=stay).give('12:00', '', 5, stay=stay)
        r.drug('Norpin 4mg/4ml inj(Norepinephrine)', '10:30', 'start', 'as ordered', stay=stay)
        r.drug('Norpin 4mg/4ml inj(Norepinephrine)', '10:40', 'change', '5cc/hr', stay=stay)
    c, report = load(r, tmp_path)
    adds_up(report, tmp_path/'registry')
    assert set(report.rows_read) >= {'icu/icustays', 'icu/chartevents', 'icu/outputevents', 'icu/inputevents', 'hosp/emar', 'hosp/emar_detail', 'hosp/transfers'}

@pytest.mark.parametrize('window,steps', [(dict(hours=24), 24), (dict(hours=48), 48), (dict(hours=30, grid_hours=2), 15),
                                          (dict(hours=0), 36), (dict(hours=0, cap_hours=20), 20), (dict(hours=0, grid_hours=3), 12)])
def test_windows_and_steps(tmp_path, window, steps): # the stay lasts 36 hours
    r = one().chart('HR', '23:30', 90).chart('HR', '3021-05-02 21:30:00', 95)
    c, _ = load(r, tmp_path, **window)
    g = window.get('grid_hours', 1)
    assert c.n_hours == steps and c.length.tolist() == [min(steps, int(36/g))]
    seen = np.flatnonzero(~np.isnan(c.value('hr')[0])).tolist()
    assert seen == [h for h in sorted({int(0.5//g), int(13.5//g), int(35.5//g)}) if h < steps]
