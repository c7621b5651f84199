"""Kill a run at ten random moments and go on each time: the end must be the same, byte by byte, and no file may be half-written.

    python tests/kill/run.py [--kills 10] [--seed 0] [--work DIR] [--cores 1] [--items t1_cohort ...] > tests/kill/RESULT.md

An uninterrupted run comes first; its timeline says when a stage was running. The moments are drawn uniformly over that timeline and met in
their order: as many stages finished as at that moment, then as many seconds more. How it is killed is drawn too: SIGKILL to the process group
as a machine does that runs out of memory, SIGKILL to the first process alone (its children must notice), SIGTERM, or SIGINT to the group.
After every kill nothing of the run may live on, and every file under its final name must be whole: readable as what its suffix says.
Two runs have two names, two dates and take their own time, and the dossier and the table of costs say so: files that differ are compared
again without these, member by member when they are DOCX.
"""
import argparse
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
CHEAP = ('paper.samplers=[gaussian_mixture,latent_gan] paper.shadows=0 paper.canaries=0 paper.privacy_controls=[leak_0.1] evaluation.n_boot=10 evaluation.tasks=[death] '
         'evaluation.models=[logistic] evaluation.half_splits=4 evaluation.privacy_people=100 evaluation.subgroup_boot=4')
HOW = {'SIGKILL to all': (signal.SIGKILL, True), 'SIGKILL to the first process': (signal.SIGKILL, False), 'SIGTERM to all': (signal.SIGTERM, True),
       'SIGINT to all': (signal.SIGINT, True)}
TAG = 'SYNKMIMIC_KILL_TEST'
UNFINISHED = re.compile(r'^\.|\.(tmp|part|partial|incomplete)$')
MAY_BE_EMPTY = re.compile(r'\.lock$|^manifest\.\w+\.done$') # a mark without seconds: the last rule's

def _read(path):
    "Raise unless the file is whole."
    kind = path.suffix
    if kind in ('.json', '.ipynb'): json.loads(path.read_text(encoding='utf-8'))
    elif kind == '.csv': assert path.read_bytes()[-1:] == b'\n', 'ends within a line'; pd.read_csv(path)
    elif kind == '.parquet': pq.read_table(path)
    elif kind == '.npz':
        with np.load(path, allow_pickle=False) as z: [z[k] for k in z.files]
    elif kind == '.safetensors':
        with safe_open(path, 'np') as f: [f.get_tensor(k) for k in f.keys()]
    elif kind == '.png':
        with Image.open(path) as im: im.load()
    elif kind == '.pdf': assert path.read_bytes()[:4] == b'%PDF' and path.read_bytes().rstrip().endswith(b'%%EOF'), 'no end of a PDF'
    elif kind == '.gz': gzip.decompress(path.read_bytes())
    elif kind in ('.docx', '.zip'): assert zipfile.ZipFile(path).testzip() is None, 'a damaged archive'
    elif kind in ('.yaml', '.yml'): yaml.safe_load(path.read_text(encoding='utf-8'))
    elif kind == '.tex': assert '\\end{' in path.read_text(encoding='utf-8').rstrip().splitlines()[-1], 'no end'
    else: path.read_bytes()

def files_of(*folders):
    "All files, without Snakemake's log, which grows by lines."
    return [p for f in folders if f.exists() for p in sorted(f.rglob('*')) if p.is_file() and p.name != 'snakemake.log']

def damaged(*folders):
    "Files under a final name that are empty or cannot be read as what they are."
    out = []
    for p in files_of(*folders):
        if any(UNFINISHED.search(part) for part in p.parts[-3:]): continue
        try:
            assert p.stat().st_size or MAY_BE_EMPTY.search(p.name), 'empty'
            _read(p)
        except Exception as e: out.append(f'{p.name}: {type(e).__name__}: {e}')
    return out

def unfinished(*folders):
    "Files under a temporary name."
    return [p.name for p in files_of(*folders) if UNFINISHED.search(p.name) and p.name != '.lock']

def alive(tag):
    "Processes that were started with this tag in their environment."
    out = []
    for p in Path('/proc').glob('[0-9]*'):
        try:
            if f'{TAG}={tag}'.encode() in (p/'environ').read_bytes() and (p/'stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z': out.append(int(p.name))
        except OSError: continue
    return [p for p in out if p != os.getpid()]

def start(name, runs, args):
    "The run that `make paper PROFILE=smoke` starts, in a session of its own."
    command = [sys.executable, '-m', 'synkmimic.paper', 'run', '--profile', 'smoke', '--name', name, '--overrides', args.overrides, '--runs', str(runs), '--cores', str(args.cores), *args.items]
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONHASHSEED='0', SOURCE_DATE_EPOCH='0', OMP_NUM_THREADS='1', **{TAG: name})
    log = open(runs/'log.txt', 'a', encoding='utf-8')
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

def marks(runs): return sorted(runs.glob('*/state/*.*.done'), key=lambda p: p.stat().st_mtime)
def running(runs): return ', '.join(sorted(p.name[1:].removesuffix('.running.ipynb') for p in runs.glob('*/notebooks/.*.running.ipynb'))) or 'between two stages'

def attempt(name, runs, args, done, after, how):
    "Start, wait for the moment, kill; what was seen."
    number, whole = HOW[how]
    process, begun = start(name, runs, args), time.monotonic()
    while process.poll() is None and len(marks(runs)) < done: time.sleep(0.05)
    moment = time.monotonic()
    while process.poll() is None and time.monotonic() < moment + after: time.sleep(0.05)
    if process.poll() is not None: return None
    seen = dict(done=len(marks(runs)), stage=running(runs), seconds=time.monotonic() - begun, how=how)
    (os.killpg if whole else os.kill)(process.pid, number)
    killed = time.monotonic()
    process.wait(timeout=120)
    while alive(name) and time.monotonic() < killed + 120: time.sleep(0.1)
    return seen | dict(left=len(alive(name)), gone=time.monotonic() - killed)

def drop_names(manifest): return {k: v for k,v in manifest.items() if k not in ('name', 'git')}

OF_THE_RUN = re.compile(r'kill-(whole|broken)(-[0-9a-f]{10})?|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|(?<=Wall seconds)(<[^>]*>|[^\d])*[\d.]+|"wall_seconds": [\d.]+|^.*Training, (both VAEs|sampler), s.*$', re.M)

def told(path):
    "What a file says but for name, dates and seconds of the run; a DOCX is a list of texts."
    if path.name == 'costs.csv': return [pd.read_csv(path).drop(columns='seconds').to_csv()]
    parts = [path.read_bytes()]
    if path.suffix == '.docx':
        with zipfile.ZipFile(path) as z: parts = [n.encode() + z.read(n) for n in z.namelist()]
    return [OF_THE_RUN.sub('-', p.decode('utf-8', 'surrogateescape')) for p in parts]

def compared(x, y, without=()):
    "Files of two folders: how many, those that say the same in other bytes, and those that do not say the same."
    names = {p.relative_to(r).as_posix() for r in (x, y) if r.exists() for p in r.rglob('*') if p.is_file()} - set(without)
    same, out = [], []
    for n in sorted(names):
        p, q = x/n, y/n
        if not (p.exists() and q.exists()): out.append(f'{n}: only in the {"first" if p.exists() else "second"} run')
        elif n == 'manifest.json':
            if drop_names(json.loads(p.read_text())) != drop_names(json.loads(q.read_text())): out.append(f'{n}: differs')
        elif p.read_bytes() != q.read_bytes(): (same if told(p) == told(q) else out).append(f'{n}: differs')
    return len(names), same, out

def differences(a, b, folder_a, folder_b):
    "Files of two finished runs that do not say the same; all are counted by kind, and those that say the same in other bytes."
    out, count, same = [], {}, []
    for kind,x,y in (('figures', a, b), *((d, folder_a/d, folder_b/d) for d in ('scores', 'numbers', 'models', 'cohort', 'synthetic', 'release', 'dossier'))):
        count[kind], alike, odd = compared(x, y)
        same += alike
        out += [f'{kind}/{o}' for o in odd]
    return out, count, same

def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--kills', type=int, default=10)
    ap.add_argument('--seed', type=int, default=0)
    ap.add_argument('--cores', type=int, default=1)
    ap.add_argument('--work', default='')
    ap.add_argument('--overrides', default=CHEAP)
    ap.add_argument('--items', nargs='*', default=[], help='notebooks to make; default: all')
    args = ap.parse_args()
    work, draw = Path(args.work or tempfile.mkdtemp(prefix='kill-')).resolve(), random.Random(args.seed)
    whole, broken = work/'whole', work/'broken'
    for d in (whole, broken): d.mkdir(parents=True, exist_ok=True)
    tell = lambda *a: print(*a, file=sys.stderr, flush=True)

    clock, begun = time.monotonic(), time.time()
    if not (whole/'begun').exists(): # a reference that is there already is kept
        assert start('kill-whole', whole, args).wait() == 0, (whole/'log.txt').read_text()[-3000:]
        (whole/'begun').write_text(str(begun))
    begun = float((whole/'begun').read_text())
    ends = [p.stat().st_mtime - begun for p in marks(whole)]
    tell(f'uninterrupted: {ends[-1]:.0f} s, {len(ends)} stages and items')

    rows = []
    for t in sorted(draw.uniform(0, ends[-1]) for _ in range(args.kills)):
        done = sum(e <= t for e in ends)
        how = draw.choice(list(HOW))
        row = attempt('kill-broken', broken, args, done, t - (ends[done - 1] if done else 0), how)
        if row is None: tell('the run ended before its moment'); continue
        folders = [*broken.glob('*/'), ROOT/'_scratch'/'figures'/'kill-broken']
        row |= dict(moment=t, damaged=damaged(*folders), unfinished=unfinished(*folders))
        rows.append(row)
        tell(row)
    assert start('kill-broken', broken, args).wait() == 0, (broken/'log.txt').read_text()[-3000:]
    (a,), (b,) = (tuple(p.parent for p in d.glob('*/run.json')) for d in (whole, broken))
    if args.items: # then the last rule, which collects the numbers, is not asked for: here by hand, for what was made
        for d in (a, b): subprocess.run([sys.executable, '-m', 'synkmimic.paper', 'manifest', '--run', str(d), *sorted(p.name.split('.')[0] for p in (d/'state').glob('*.*.done'))], cwd=ROOT, check=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    figures = [Path(json.loads((d/'run.json').read_text())['figures']) for d in (a, b)]
    differ, count, same = differences(*figures, a, b)
    last, rest = damaged(b, figures[1]), unfinished(b, figures[1])
    again = start('kill-broken', broken, args).wait() # nothing may be left to do

    good = len(rows) == args.kills and not (differ or last or rest or again or any(r['damaged'] or r['left'] for r in rows))
    rev = subprocess.run(['git', '-C', str(ROOT), 'rev-parse', '--short=12', 'HEAD'], capture_output=True, text=True).stdout.strip()
    print(f'# Killed at {len(rows)} random moments\n')
    print(f'`python tests/kill/run.py --seed {args.seed}{" --items " + " ".join(args.items) if args.items else ""}` of commit {rev}; {len(ends)} stages and items, {ends[-1]:.0f} s without interruption, {time.monotonic() - clock:.0f} s for this table.\n')
    print('| moment, s of the uninterrupted run | finished | running | killed by | after, s | processes left | all gone after, s | half-written under a final name | under a temporary name |')
    print('|---:|---:|---|---|---:|---:|---:|---|---|')
    for r in rows:
        print(f"| {r['moment']:.0f} | {r['done']} | {r['stage']} | {r['how']} | {r['seconds']:.0f} | {r['left']} | {r['gone']:.1f} | {'; '.join(r['damaged']) or 'none'} | {', '.join(r['unfinished']) or 'none'} |")
    print('\nA file under a temporary name is what a killed process was writing; nothing reads it. At the end:\n')
    print(f"* files compared byte by byte with the uninterrupted run: {', '.join(f'{v} {k}' for k,v in count.items() if v)}; of these, {len(same)} the same but for the run's name, dates and seconds; different: {len(differ)}", *(f'  * {d}' for d in differ[:20]), sep='\n')
    print(f"* half-written under a final name: {len(last)}", *(f'  * {d}' for d in last), sep='\n')
    print(f"* left under a temporary name: {len(rest)}", *(f'  * {d}' for d in rest), sep='\n')
    print(f"* the same command once more: {'up to date' if again == 0 else 'FAILED'}\n\n{'Passed.' if good else 'FAILED.'}")
    if not args.work: shutil.rmtree(work)
    return 0 if good else 1

if __name__ == '__main__': sys.exit(main())
