"""Extraction at registry scale: rows/s, MB/s and peak memory of `load_cohort`, beside a plain DuckDB scan of the same files in the same run.

    python benchmarks/bench_extract.py [--stays 50000] [--repeat 3] [--source simulated --root FOLDER] [--memory 2GB]

Without `--root` a registry of `--stays` stays is simulated first (50,000 stays are about 100 million rows and 1 GB), and the time and
memory of that are printed too. Every measurement runs in a process of its own, so that the peak memory is its own. The plain scan reads
every column of every row once (`SELECT count(*), bit_xor(hash(t))`) and does nothing else; `times` is the ratio to it.
"""
import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd

from synkmimic.simulate import simulate_registry
from synkmimic.sources.extract import DataConfig
from synkmimic.sources.files import Tables, connect
from synkmimic.sources.load import load_cohort


def scan(root, names):
    "Rows of all tables; every column is read and hashed."
    with tempfile.TemporaryDirectory() as spill, connect(DataConfig(), spill) as con:
        tables = Tables(root, con, expect=())
        return sum(con.execute(f'SELECT count(*), bit_xor(hash(t)) FROM {tables.source(n)} t').fetchall()[0][0] for n in names)


def extract(source, root, memory):
    "The cohort, in words, and the rows the report accounts for, by table."
    cohort, report = load_cohort(source, root, cfg=DataConfig(memory_limit=memory))
    return repr(cohort), report.rows_read


def _child(pipe, work, args):
    start = time.perf_counter()
    out = work(*args)
    pipe.send((out, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024))


def alone(work, *args): # result, seconds, peak megabytes
    "Run in a fresh process."
    context = multiprocessing.get_context('spawn')
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, work, args))
    process.start()
    there.close()
    try: return here.recv()
    except EOFError: raise SystemExit(f'{work.__name__} died') from None
    finally: process.join()


def simulated(root, stays): return sum(simulate_registry(root, n_stays=stays).values())


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name,kind,default in (('stays', int, 2000), ('repeat', int, 3), ('source', str, 'simulated'), ('root', str, ''), ('memory', str, '2GB')):
        ask.add_argument(f'--{name}', type=kind, default=default)
    a, lines = ask.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(a.root or Path(folder)/'registry')
        if not a.root: lines.append(('simulate', [alone(simulated, root, a.stays)]))
        loads = [alone(extract, a.source, root, a.memory) for _ in range(a.repeat)]
        (cohort, read), rows = loads[0][0], {}
        rows = {k: v for k,v in read.items() if '/' in k}
        scans = [alone(scan, root, list(rows)) for _ in range(a.repeat)]
        if scans[0][0] != sum(rows.values()): raise SystemExit(f'the report accounts for {sum(rows.values()):,} of {scans[0][0]:,} rows')
        size = sum(p.stat().st_size for k in rows for p in root.glob(f'{k}.*'))/1e6
        base = statistics.median(s for _,s,_ in scans)
        table = []
        for what,runs in (*lines, ('load_cohort', loads), ('plain DuckDB scan', scans)):
            seconds = statistics.median(s for _,s,_ in runs)
            table.append(dict(what=what, seconds=round(seconds, 1), rows_per_s=round(scans[0][0]/seconds), MB_per_s=round(size/seconds, 1),
                              times=round(seconds/base, 2), peak_MB=round(max(m for *_,m in runs))))
    print(cohort, f'\n{scans[0][0]:,} rows, {size:,.0f} MB', pd.DataFrame(table).to_string(index=False), sep='\n')


if __name__ == '__main__': main()
