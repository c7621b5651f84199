"""Run the library notebooks top to bottom, each in a fresh kernel: `python tests/run_notebooks.py [--keep] [NOTEBOOK ...]`.

nbdev-test does the same for code, but silently skips what it takes for imports; here every code cell runs as a reader would run it. `--keep` writes the outputs back."""
import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ |= dict(OMP_NUM_THREADS='1', MPLBACKEND='module://matplotlib_inline.backend_inline')

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from synkmimic.paper import own_sockets

ROOT = Path(__file__).resolve().parents[1]
FIRST = ('82_', '65_', '41_', '64_', '49_', '86_', '73_', '56_', '55_') # the longest: the last one to start decides when all is done
META = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))

def library_notebooks()->list[Path]:
    "The numbered notebooks, the longest first, then in order."
    return sorted((ROOT/'nbs').glob('[0-9]*.ipynb'), key=lambda p: (FIRST.index(p.name[:3]) if p.name[:3] in FIRST else len(FIRST), p.name))

def executed(path:Path):
    "The notebook after a run, without execution counts, timestamps and foreign metadata."
    nb = nbformat.read(path, 4)
    with own_sockets() as options:
        NotebookClient(nb, timeout=600, kernel_name='python3', extra_arguments=['--log-level=40'], config=options,
                       resources=dict(metadata=dict(path=str(path.parent)))).execute()
    nb.metadata = META
    for c in nb.cells:
        c.metadata = {k: v for k,v in c.metadata.items() if k == 'tags'}
        if c.cell_type == 'code': c.execution_count = None
        for o in c.get('outputs', []):
            if 'execution_count' in o: o['execution_count'] = None
    return nb

def run(path:Path, keep:bool=False)->str: # '' or what went wrong
    "Run one notebook; with `keep`, write it back."
    start = time.monotonic()
    try: nb = executed(path)
    except CellExecutionError as e: return f'{path.name}: {e}'
    if keep: path.write_text(json.dumps(json.loads(nbformat.writes(nb)), indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')
    print(f'  {path.name:<36} {time.monotonic() - start:5.1f} s', flush=True)
    return ''

def main()->int:
    "Two at a time."
    a = argparse.ArgumentParser()
    a.add_argument('--keep', action='store_true')
    a.add_argument('notebooks', nargs='*', type=Path)
    a = a.parse_args()
    with ThreadPoolExecutor(2) as pool: wrong = [w for w in pool.map(lambda p: run(Path(p).resolve(), a.keep), a.notebooks or library_notebooks()) if w]
    print('\n'.join(wrong), file=sys.stderr)
    return len(wrong) > 0

if __name__ == '__main__': sys.exit(main())
