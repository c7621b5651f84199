"Size and power of the intervals and tests, with enough repeats to know them: the notebook asserts, this runs it for longer."
from pathlib import Path

import pytest

from synkmimic.core import read_json
from synkmimic.paper import execute, plan, prepare

NOTEBOOK = Path(__file__).resolve().parents[1]/'nbs'/'paper'/'s6_size_power.ipynb'


@pytest.mark.slow
def test_every_test_rejects_at_its_nominal_rate(tmp_path):
    p = plan(profile='smoke', runs=tmp_path, scratch=tmp_path)
    prepare(p)
    execute(NOTEBOOK, tmp_path/'s6.ipynb', dict(run=str(p.folder), overrides=[], out=str(tmp_path), repeats=200), label='s6')
    numbers = read_json(p.folder/'numbers'/'s6_size_power.json')
    assert len(numbers) > 8 and all(0 <= v < 0.1 for v in numbers.values()), numbers
