"Every control keeps the contract of a generator and has exactly its one fault."
import numpy as np
import pytest

from synkmimic.core import SynkError
from synkmimic.models.controls import (CONTROLS, IndependentMarginals, LabelShuffled, Leak, NoisyCopy, TimeShuffled,
                                       VerbatimCopy)
from synkmimic.toy import toy_cohort


@pytest.fixture(scope='module')
def train(): return toy_cohort(200, seed=0)


@pytest.mark.parametrize('name', CONTROLS)
@pytest.mark.parametrize('n', [1, 50, 450])
def test_contract(name, n, train):
    c = CONTROLS[name]().fit(train).sample(n, seed=1)
    assert len(c.validate()) == n and c.schema == train.schema
    assert c.fingerprint() == CONTROLS[name]().fit(train).sample(n, seed=1).fingerprint()
    assert not set(c.subject_id) & set(train.subject_id) and not set(c.stay_id) & set(train.stay_id)
    assert c.stay_id[0] == 'synth-000001'


def test_copies_hold_the_training_records(train):
    copy, noisy = (k().fit(train).sample(200) for k in (VerbatimCopy, NoisyCopy))
    key = lambda c: np.sort(np.nan_to_num(c.values).sum((1, 2), dtype='float64'))
    assert np.allclose(key(copy), key(train), atol=1e-2)
    gap = np.nanstd(noisy.values - copy.values, axis=(0, 1))/np.nanstd(train.values, axis=(0, 1))
    assert ((gap > 0) & (gap < 0.012)).all()


def test_people_stay_together(train):
    copy = VerbatimCopy().fit(train).sample(200)
    assert len(set(copy.subject_id)) == len(set(train.subject_id)) < 200


def test_time_shuffle_keeps_each_hour_whole(train):
    c, copy = (k().fit(train).sample(200) for k in (TimeShuffled, VerbatimCopy))
    assert (c.length == copy.length).all() and (c.flags.sum(1) == copy.flags.sum(1)).all()
    rows = lambda c,i: {tuple(r) for r in np.nan_to_num(c.values[i], nan=-1).tolist()}
    assert all(rows(c, i) == rows(copy, i) for i in range(20))


def test_label_shuffle_changes_the_outcome_alone(train):
    c, copy = (k().fit(train).sample(200) for k in (LabelShuffled, VerbatimCopy))
    assert np.array_equal(np.nan_to_num(c.values), np.nan_to_num(copy.values)) and (c.outcome != copy.outcome).any()
    assert np.array_equal(np.bincount(c.outcome), np.bincount(copy.outcome))


def test_independent_marginals(train):
    c = IndependentMarginals().fit(train).sample(3000)
    hourly = lambda c: np.where(c.mask, c.values, 0).sum(0)/np.maximum(c.mask.sum(0), 1)
    assert np.abs(hourly(c)[:, 0] - hourly(train)[:, 0]).max() < 2 # beats/min, hour by hour
    d = np.stack([c.value('hr').astype(float)[:, t] for t in (3, 4)])
    d = d[:, ~np.isnan(d).any(0)]
    assert abs(np.corrcoef(d)[0, 1]) < 0.06
    assert not c.mask[~c.inside].any()


@pytest.mark.parametrize('share', [0, 0.1, 1])
def test_leak_has_its_dose(train, share):
    c = Leak(share, toy_cohort(200, seed=9)).fit(train).sample(200)
    key = lambda c: set(np.nan_to_num(c.values).sum((1, 2), dtype='float64').round(2))
    assert abs(len(key(c) & key(train)) - 200*share) <= 2


@pytest.mark.parametrize('make,words', [(lambda t: VerbatimCopy().sample(3), 'has not been fitted'),
                                        (lambda t: VerbatimCopy().fit(t).sample(0), 'cannot sample 0'),
                                        (lambda t: Leak(2, t).fit(t).sample(9), '0..1'),
                                        (lambda t: Leak(0.5).fit(t).sample(9), 'innocent')])
def test_errors(train, make, words):
    with pytest.raises(SynkError, match=words): make(train)
