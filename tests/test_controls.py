"Every control keeps the contract of a generator and has exactly its one fault."
import numpy as np
import pytest

from synkmimic.core import SynkError
from synkmimic.models.controls import (CONTROLS, GaussianCopula, IndependentMarginals, LabelShuffled, Leak, NoisyCopy, Overfit,
                                       TimeShuffled, VerbatimCopy, cell_means, cells, latent_correlation)
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


def test_copula_keeps_margins_and_pairs_and_loses_the_rest(train):
    c = GaussianCopula().fit(train).sample(3000)
    hourly = lambda c: np.where(c.mask, c.values, 0).sum(0)/np.maximum(c.mask.sum(0), 1)
    assert np.abs(hourly(c)[:, 0] - hourly(train)[:, 0]).max() < 4 and np.abs(c.mask.mean(0) - train.mask.mean(0)).max() < 0.06
    def corr(c, a, b, lag=0):
        x = np.stack([c.value(a)[:, :24 - lag].ravel(), c.value(b)[:, lag:].ravel()]).astype(float)
        return np.corrcoef(x[:, ~np.isnan(x).any(0)])[0, 1]
    for a,b,lag in (('sbp', 'dbp', 0), ('hr', 'hr', 1), ('hr', 'hr', 6), ('hr', 'sbp', 0), ('norepinephrine', 'norepinephrine', 2)):
        assert abs(corr(c, a, b, lag) - corr(train, a, b, lag)) < 0.12, (a, b, lag)
    age = lambda c: np.corrcoef(c.static.age, c.outcome > 0)[0, 1]
    assert abs(age(c) - age(train)) < 0.1
    assert (c.mask[..., 1] == c.mask[..., 3]).mean() > 0.97 # the pressures are charted together
    odd = lambda c: np.nanmean(np.abs(c.value('map') - c.value('dbp') - (c.value('sbp') - c.value('dbp'))/3) > 1)
    assert odd(train) == 0 and odd(c) > 0.15 # a relation of three


@pytest.mark.parametrize('rho', [-0.4, 0., 0.4, 0.8])
@pytest.mark.parametrize('shares', [(None, None), (0.5, None), (0.5, 0.5), (0.3, 0.3)])
def test_latent_correlation_against_the_truth(rho, shares):
    z = np.random.default_rng(0).multivariate_normal([0, 0], [[1, rho], [rho, 1]], 20_000)
    seen = np.column_stack([a if p is None else (a > np.quantile(a, 1 - p)).astype(float) for a,p in zip(z.T, shares)])
    e = cell_means(*cells(seen)[2:])
    assert abs(latent_correlation(e.T @ e/len(e), (e**2).mean(0), (e**2).mean(0))[0, 1] - rho) < 0.12


def test_overfit_is_near_its_own_stays_alone(train):
    profile = lambda c: np.nan_to_num(c.values[..., :4]).reshape(len(c), -1)
    near = lambda a, b: np.sqrt(((profile(a)[:, None] - profile(b)[None])**2).sum(-1)).min(1)
    others = toy_cohort(200, seed=7)
    def auc(c): return np.mean(near(train, c)[:, None] < near(others, c)[None])
    over = {h: auc(Overfit(bandwidth=h).fit(train).sample(200)) for h in (0., 0.3, 1.)}
    assert over[0.] > over[0.3] > 0.7 and abs(over[1.] - 0.5) < 0.12, over
    few = Overfit(stays=50).fit(train).sample(200)
    assert auc(few) < over[0.3] # it has not seen the rest


@pytest.mark.parametrize('share', [0, 0.1, 1])
def test_leak_has_its_dose(train, share):
    c = Leak(share, toy_cohort(200, seed=9)).fit(train).sample(200)
    key = lambda c: set(np.nan_to_num(c.values).sum((1, 2), dtype='float64').round(2))
    assert abs(len(key(c) & key(train)) - 200*share) <= 2


@pytest.mark.parametrize('make,words', [(lambda t: VerbatimCopy().sample(3), 'has not been fitted'),
                                        (lambda t: VerbatimCopy().fit(t).sample(0), 'cannot sample 0'),
                                        (lambda t: Leak(0.1, t).fit(t).sample(0), 'cannot sample 0'),
                                        (lambda t: GaussianCopula().sample(3), 'has not been fitted'),
                                        (lambda t: Leak(2, t).fit(t).sample(9), '0..1'),
                                        (lambda t: Leak(0.5).fit(t).sample(9), 'innocent')])
def test_errors(train, make, words):
    with pytest.raises(SynkError, match=words): make(train)
