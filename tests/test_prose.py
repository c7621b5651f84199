"PAPER.md holds the numbers of the committed runs, and no others."
import json
import re
from pathlib import Path

import pytest

from synkmimic.core import SynkError, read_json, write_json
from synkmimic.prose import PLACE, Numbers, build, fill, typed_numbers

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = (ROOT/'nbs'/'paper'/'PAPER.md').read_text(encoding='utf-8')

def test_the_page_is_its_template_with_the_numbers_of_the_runs():
    assert (ROOT/'PAPER.md').read_text(encoding='utf-8') == fill(TEMPLATE, Numbers(ROOT/'figures')), 'run `make prose`'

def test_no_measured_number_is_typed():
    assert typed_numbers(TEMPLATE) == [] and len(PLACE.findall(TEMPLATE)) > 40

def test_another_run_gives_another_page(tmp_path):
    changed = {}
    for run in {m['run'] for m in PLACE.finditer(TEMPLATE)}:
        changed[run] = {k: v + 1 if isinstance(v, (int, float)) else v for k,v in read_json(ROOT/'figures'/run/'numbers.json').items()}
        write_json(changed[run], tmp_path/run/'numbers.json')
    assert fill(TEMPLATE, Numbers(tmp_path)) != (ROOT/'PAPER.md').read_text(encoding='utf-8')
    run, key = PLACE.search(TEMPLATE)['run'], PLACE.search(TEMPLATE)['key']
    del changed[run][key]
    write_json(changed[run], tmp_path/run/'numbers.json')
    with pytest.raises(SynkError, match='line .* has no number'): fill(TEMPLATE, Numbers(tmp_path))

def test_a_failed_build_leaves_the_page_as_it_was(tmp_path):
    (tmp_path/'text.md').write_text('{run:a|.2f}')
    (tmp_path/'out.md').write_text('as it was')
    with pytest.raises(SynkError): build(tmp_path/'text.md', tmp_path/'out.md', tmp_path)
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'numbers.json').write_text(json.dumps(dict(a='many')))
    with pytest.raises(SynkError, match='cannot be written'): build(tmp_path/'text.md', tmp_path/'out.md', tmp_path)
    assert (tmp_path/'out.md').read_text() == 'as it was'

def test_pictures_and_links_of_the_page_are_there():
    for target in re.findall(r'\]\(([^)#]+)\)', TEMPLATE): assert (ROOT/target).exists(), target
