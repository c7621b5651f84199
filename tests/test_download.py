"Fetching from a server on this machine that can be told to misbehave."
import errno
import http.server
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from synkmimic.core import ConfigError, DataError, file_digest
from synkmimic.sources import download
from synkmimic.sources.download import LIST, OPEN_SETS, OpenSet, fetch, read_sums

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'
BIG = bytes(range(251))*8000 # two million bytes

class Handler(http.server.BaseHTTPRequestHandler):
    "Serves `server.files`; what goes wrong is in `server.faults`: {name: [fault, ...]}, one for each request."
    def do_GET(self):
        s, name = self.server, self.path.lstrip('/')
        fault = s.faults.get(name, []).pop(0) if s.faults.get(name) else None
        asked = self.headers.get('Range')
        start = int(asked[6:-1]) if asked and s.ranges else 0
        s.asked.append((name, int(asked[6:-1]) if asked else 0))
        data = s.files.get(name)
        if data is None: return self.send_error(404)
        if isinstance(fault, int) and 400 <= fault < 600: return self.send_error(fault)
        if start and start >= len(data): return self.send_error(416)
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {start + 7*(fault == "shifted")}-{len(data) - 1}/{len(data)}')
        self.send_header('Content-Length', str(len(data) - start))
        self.end_headers()
        if fault == 'corrupt': data = data[:-9] + b'corrupted'
        self.wfile.write(data[start:fault if isinstance(fault, int) else None])
    def log_message(self, *a): pass

@pytest.fixture
def shelf():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.faults, server.asked, server.ranges = {'icu/chartevents.csv.gz': BIG, 'hosp/a b.csv': b'1,2\n'}, {}, [], True
    server.files[LIST] = ''.join(f'{sha256(v).hexdigest()} {k}\n' for k,v in server.files.items()).encode()
    server.files['hosp/a%20b.csv'] = server.files['hosp/a b.csv']
    server.base = f'http://127.0.0.1:{server.server_port}'
    server.set = OpenSet(server.base, list_digest=sha256(server.files[LIST]).hexdigest())
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()

CHART = 'icu/chartevents.csv.gz'
def get(shelf, folder, **k): return fetch(shelf.set, folder, **(dict(wait=0, retries=2, progress=False) | k))
def starts(shelf, name=CHART): return [s for n,s in shelf.asked if n == name]

def test_a_fresh_fetch_and_a_second_one_that_asks_nothing(shelf, tmp_path):
    assert get(shelf, tmp_path) == {LIST: 'fetched', CHART: 'fetched', 'hosp/a b.csv': 'fetched'}
    assert (tmp_path/CHART).read_bytes() == BIG and (tmp_path/'hosp'/'a b.csv').read_bytes() == b'1,2\n'
    shelf.asked.clear()
    assert set(get(shelf, tmp_path).values()) == {'kept'} and shelf.asked == []
    assert not list(tmp_path.rglob('*.part'))

def test_a_broken_transfer_goes_on_from_its_last_byte(shelf, tmp_path):
    shelf.faults[CHART] = [700_000, 900_000]
    assert get(shelf, tmp_path)[CHART] == 'fetched'
    assert starts(shelf) == [0, 700_000, 900_000]
    assert (tmp_path/CHART).read_bytes() == BIG

def test_a_part_of_yesterday_is_used(shelf, tmp_path):
    (tmp_path/'icu').mkdir()
    (tmp_path/f'{CHART}.part').write_bytes(BIG[:1_234_567])
    get(shelf, tmp_path)
    assert starts(shelf) == [1_234_567] and (tmp_path/CHART).read_bytes() == BIG

def test_a_part_that_is_whole_or_too_long(shelf, tmp_path):
    (tmp_path/'icu').mkdir()
    part = tmp_path/f'{CHART}.part'
    part.write_bytes(BIG)
    get(shelf, tmp_path)
    assert starts(shelf) == [len(BIG)] and (tmp_path/CHART).read_bytes() == BIG # 416: nothing after the last byte
    (tmp_path/CHART).unlink()
    part.write_bytes(BIG + b'x')
    shelf.asked.clear()
    get(shelf, tmp_path)
    assert starts(shelf) == [len(BIG) + 1, 0] and (tmp_path/CHART).read_bytes() == BIG

def test_a_part_with_wrong_bytes_is_thrown_away_once(shelf, tmp_path):
    (tmp_path/'icu').mkdir()
    (tmp_path/f'{CHART}.part').write_bytes(b'?'*1000)
    get(shelf, tmp_path)
    assert starts(shelf) == [1000, 0] and (tmp_path/CHART).read_bytes() == BIG

def test_a_server_without_ranges(shelf, tmp_path):
    shelf.ranges = False
    shelf.faults[CHART] = [700_000]
    get(shelf, tmp_path)
    assert starts(shelf) == [0, 700_000] and (tmp_path/CHART).read_bytes() == BIG

def test_a_server_that_answers_with_another_range(shelf, tmp_path):
    shelf.faults[CHART] = [700_000, 'shifted']
    get(shelf, tmp_path)
    assert starts(shelf) == [0, 700_000, 700_000] and (tmp_path/CHART).read_bytes() == BIG

def test_corrupted_bytes_are_refused_and_leave_nothing(shelf, tmp_path):
    shelf.faults[CHART] = ['corrupt']
    with pytest.raises(DataError, match='checksum is wrong'): get(shelf, tmp_path)
    assert not (tmp_path/CHART).exists() and not list(tmp_path.rglob('*.part'))
    assert get(shelf, tmp_path)[CHART] == 'fetched' # and the next call mends it

def test_a_file_with_a_wrong_checksum_stays_until_the_right_one_is_here(shelf, tmp_path):
    get(shelf, tmp_path)
    (tmp_path/CHART).write_bytes(b'other')
    shelf.faults[CHART] = [404]
    with pytest.raises(DataError, match='answers 404'): get(shelf, tmp_path)
    assert (tmp_path/CHART).read_bytes() == b'other'
    assert get(shelf, tmp_path)[CHART] == 'fetched' and (tmp_path/CHART).read_bytes() == BIG

def test_passing_faults_of_the_server_are_waited_out_and_lasting_ones_are_not(shelf, tmp_path):
    shelf.faults[CHART] = [503, 429]
    assert get(shelf, tmp_path)[CHART] == 'fetched'
    (tmp_path/CHART).unlink()
    shelf.faults[CHART] = [503]*9
    with pytest.raises(DataError, match='answers 503'): get(shelf, tmp_path)
    shelf.faults[CHART], shelf.asked[:] = [403], []
    with pytest.raises(DataError, match='answers 403'): get(shelf, tmp_path)
    assert len(starts(shelf)) == 1

def test_a_missing_file_an_unknown_list_and_no_server(shelf, tmp_path):
    del shelf.files[CHART]
    with pytest.raises(DataError, match='404.*moved'): get(shelf, tmp_path)
    shelf.set = OpenSet(shelf.base, list_digest='0'*64)
    with pytest.raises(DataError, match=f'checksum is wrong.*{LIST}'): get(shelf, tmp_path/'new')
    with pytest.raises(DataError, match='cannot be reached.*proxy'):
        fetch('mimic-iv-demo', tmp_path/'x', base='http://127.0.0.1:9', wait=0, retries=1, progress=False)

def test_a_list_that_is_not_pinned_is_taken_from_the_server(shelf, tmp_path):
    shelf.set = OpenSet(shelf.base)
    assert get(shelf, tmp_path)[CHART] == 'fetched'
    assert get(shelf, tmp_path) == {LIST: 'fetched', CHART: 'kept', 'hosp/a b.csv': 'kept'}

def test_a_full_disk_is_not_retried(shelf, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, mode): self.f = open(path, mode)
        def __enter__(self): return self
        def __exit__(self, *a): self.f.close()
        def write(self, data): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(download, 'open', Full, raising=False)
    with pytest.raises(OSError) as e: get(shelf, tmp_path)
    assert e.value.errno == errno.ENOSPC and len(shelf.asked) == 1

def test_names_that_leave_the_folder_are_refused():
    for name in ('../x', '/x', 'a/../../x', 'C:x', r'..\x'):
        with pytest.raises(DataError, match='outside the folder'): read_sums(f'{"0"*64}  {name}\n')

def test_unknown_sets_and_addresses(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'challenge-2012'"): fetch('challenge2012', tmp_path)
    with pytest.raises(ConfigError, match='begins with https'): fetch('mimic-iv-demo', tmp_path, base='file:///etc')

@pytest.mark.skipif(not (DATA/'mimic-iv-demo-2.2'/LIST).exists(), reason='the MIMIC-IV demo is not beside the project')
def test_the_pinned_list_is_the_published_one():
    path = DATA/'mimic-iv-demo-2.2'/LIST
    assert file_digest(path) == OPEN_SETS['mimic-iv-demo'].list_digest
    sums = read_sums(path.read_text())
    tables = [p.relative_to(path.parent).as_posix() for p in path.parent.glob('*/*.csv.gz') if p.name != 'chartevents.csv.gz'] # that one is rebuilt
    assert len(sums) == 34 and len(tables) > 25 and all(file_digest(path.parent/t) == sums[t] for t in tables)

@pytest.mark.skipif(not (DATA/'physionet-challenge-2012').is_dir(), reason='Challenge 2012 is not beside the project')
@pytest.mark.parametrize('letter', 'ab')
def test_the_pinned_outcomes_are_those_of_the_set(letter):
    import tarfile
    with tarfile.open(DATA/'physionet-challenge-2012'/f'set-{letter}.tar.xz') as t:
        data = next(t.extractfile(m).read() for m in t if m.name.endswith(f'Outcomes-{letter}.txt'))
    assert sha256(data).hexdigest() == dict(OPEN_SETS['challenge-2012'].files)[f'Outcomes-{letter}.txt']
