"""Extraction speed: rows/s and MB/s of `load_cohort`, beside a plain DuckDB scan of the same files in the same run.

    python benchmarks/bench_extract.py [--stays 2000] [--repeat 3] [--source simulated --root FOLDER]
"""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd

from synkmimic.simulate import simulate_registry
from synkmimic.sources.extract import DataConfig, Tables, connect
from synkmimic.sources.load import load_cohort

def timed(run, repeat):
    "Seconds of each run and the last result."
    out, seconds = None, []
    for _ in range(repeat):
        start = time.perf_counter()
        out = run()
        seconds.append(time.perf_counter() - start)
    return seconds, out

def scan(root, names, cfg):
    "Read every column of every row once, and nothing else."
    with tempfile.TemporaryDirectory() as spill, connect(cfg, spill) as con:
        tables, rows = Tables(root, con), 0
        for name in names:
            path = str(tables.path(name))
            source = f"read_parquet('{path}')" if path.endswith('.parquet') else f"read_csv('{path}', all_varchar=true)"
            rows += con.execute(f'SELECT count(*), bit_xor(hash(t)) FROM {source} t').fetchall()[0][0]
    return rows

def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name,kind,default in (('stays', int, 2000), ('repeat', int, 3), ('source', str, 'simulated'), ('root', str, '')):
        a.add_argument(f'--{name}', type=kind, default=default)
    a = a.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(a.root or Path(folder)/'registry')
        if not a.root: simulate_registry(root, n_stays=a.stays)
        seconds, (cohort, report) = timed(lambda: load_cohort(a.source, root), a.repeat)
        rows = {k: v for k,v in report.rows_read.items() if '/' in k}
        files = [p for k in rows for p in root.glob(f'{k}.*')]
        size = sum(p.stat().st_size for p in files)/1e6
        plain, n = timed(lambda: scan(root, rows, DataConfig()), a.repeat)
        assert n == sum(rows.values()), 'the report does not account for every row of the files'
        table = pd.DataFrame([dict(what=w, rows=n, MB=round(size, 1), seconds=round(statistics.median(s), 2),
                                   rows_per_s=round(n/statistics.median(s)), MB_per_s=round(size/statistics.median(s), 1))
                              for w,s in (('load_cohort', seconds), ('plain DuckDB scan', plain))])
    print(cohort)
    print(table.to_string(index=False))

if __name__ == '__main__': main()
