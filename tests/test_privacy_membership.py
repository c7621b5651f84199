"Membership inference: known ratios, size and power of what is claimed, controls, shadow models, bad input."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from synkmimic.cohort import concat
from synkmimic.core import SynkError, rng
from synkmimic.models.controls import IndependentMarginals, Leak, NoisyCopy, Overfit, VerbatimCopy
from synkmimic.privacy import membership as m
from synkmimic.privacy import shadow
from synkmimic.stats import COLUMNS, weighted_auc
from synkmimic.toy import toy_cohort

REFERENCE = [k for k,a in m.ATTACKS.items() if a.threat == 'reference']


def auc(member, s): return weighted_auc(member, s, np.ones((1, len(member))))[0]


def holds_half(f):
    "Fifteen attacks on two arms are read together: each 95 % interval widened to z = 3.6, a family error of 1 % (Bonferroni)."
    return (f.value - 0.5 <= 3.6/1.96*(f.value - f.low)) & (0.5 - f.value <= 3.6/1.96*(f.high - f.value))


def main(d, metric='membership_auc', group=''):
    return d[(d.metric == metric) & (d.group == group)].set_index('feature')


@pytest.fixture(scope='module')
def people(): return toy_cohort(800, seed=0).split_by_subject(seed=0)


@pytest.fixture(scope='module')
def fresh(): return toy_cohort(400, seed=5)


@pytest.fixture(scope='module')
def arms(people, fresh):
    "Every control through every attack, once."
    train, holdout = people
    made = dict(copy=VerbatimCopy(), noisy=NoisyCopy(0.01), overfit=Overfit(), marginals=IndependentMarginals(), leak=Leak(0.1, fresh))
    arms = {k: c.fit(train).sample(400) for k,c in made.items()} | dict(fresh=fresh)
    return {k: m.privacy_scores(train, holdout, c, n_boot=60) for k,c in arms.items()}


# pieces against what is known

def test_distances_equal_a_loop():
    g = rng(0)
    q, s = g.standard_normal((53, 7)).astype('float32'), g.standard_normal((41, 7)).astype('float32')
    loop = np.array([[((a - b)**2).sum() for b in s] for a in q])
    assert np.allclose(m.nearest_distance(q, s, block=10), loop.min(1), atol=1e-5)
    assert np.allclose(np.concatenate([d for _,d in m.distance_blocks(q, s, 10)]), loop, atol=1e-4)


def test_neighbourhood_equals_a_loop():
    g = rng(1)
    rel, ref, rec = (g.standard_normal((k, 3)).astype('float32') for k in (40, 30, 20))
    r2 = ((rec[:, None] - ref)**2).sum(-1).min(1)
    loop = [sum(max(1 - ((x - s)**2).sum()/r, 0)**2 for s in rel) for x,r in zip(rec, r2)]
    assert np.allclose(m.attack('neighbourhood', rel, ref, rec), loop, atol=1e-4)
    near = ((rec[:, None] - rel)**2).sum(-1).min(1)
    assert np.allclose(m.attack('calibrated', rel, ref, rec), np.log(r2/near), atol=1e-3)


def test_kernel_density_has_its_known_mean():
    "The mean of a kernel estimate is the density convolved with the kernel, also with a bandwidth per point."
    g = rng(2)
    sample, at = g.standard_normal((20_000, 3)), g.uniform(-1, 1, (60, 3))
    h = g.uniform(0.5, 1, 60)
    exact = [sps.multivariate_normal(np.zeros(3), (1 + k*k)*np.eye(3)).logpdf(x) for x,k in zip(at, h)]
    assert np.abs(m.log_density(at, sample, h) - exact).max() < 0.1


@pytest.mark.parametrize('d', [1, 2, 3])
def test_domias_against_the_ratio_of_gaussians(d):
    g = rng(3, d)
    p, q, at = g.standard_normal((15_000, d)), 0.7 + 1.4*g.standard_normal((15_000, d)), g.uniform(-1.5, 1.5, (200, d))
    truth = sps.multivariate_normal(np.zeros(d)).logpdf(at) - sps.multivariate_normal(np.full(d, 0.7), 1.96*np.eye(d)).logpdf(at)
    found = m.density_ratio(p, q, at)
    assert np.corrcoef(found, truth)[0, 1] > 0.97 and np.abs(found - truth).mean() < 0.15
    swapped = m.density_ratio(q, p, at)
    assert np.corrcoef(swapped, truth)[0, 1] < -0.97


def test_density_ratio_of_equal_gaussians_tells_nothing():
    g = rng(4)
    found = [m.density_ratio(*(g.standard_normal((400, 6)) for _ in range(3))) for _ in range(30)]
    assert abs(np.mean(found)) < 0.1


def test_scale_and_embedding_do_not_know_the_records():
    g = rng(5)
    rel, ref, a, b = (g.standard_normal((k, 8)) for k in (60, 50, 30, 20))
    alone = m.embed(rel, ref, a)
    both = m.embed(rel, ref, np.concatenate([a, 100*b]))
    assert all(np.array_equal(x, y[:len(x)]) for x,y in zip(alone, both))


@pytest.mark.parametrize('name', m.ATTACKS)
def test_a_score_does_not_depend_on_the_other_records(name):
    "Train and non-members are scored one by one, by a rule that neither of them has touched."
    g = rng(6)
    rel, ref, rec = (g.standard_normal((k, 10)).astype('float32') for k in (80, 60, 50))
    all_, some = m.attack(name, rel, ref, rec), m.attack(name, rel, ref, rec[::-1][:20])
    assert np.allclose(all_[::-1][:20], some, atol=1e-4)


# the tail test

def test_hypergeometric_tails():
    for n1,n0,k in ((30, 50, 7), (5, 200, 12), (200, 5, 12), (4000, 2000, 900)):
        ours = m._hypergeometric_tails(n1, n0, [k])[0]
        exact = sps.hypergeom(n1 + n0, n1, k).logsf(np.arange(k + 1) - 1)
        seen = exact > -300
        assert np.allclose(ours[seen], np.minimum(exact[seen], 0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('n1,n0,tied', [(150, 100, False), (300, 60, True), (80, 240, False)])
def test_size_of_the_tail_test(n1, n0, tied):
    g, p = rng(7, n1), []
    person = np.repeat(np.arange(n1 + n0), g.integers(1, 4, n1 + n0))
    for _ in range(300):
        label, s = g.permutation(n1 + n0) < n1, g.standard_normal(len(person)) + g.standard_normal(n1 + n0)[person]
        p.append(m.tail_test(label[person], np.round(s) if tied else s, person, g).value)
    for a in (0.05, 0.2): assert sps.binomtest(int((np.array(p) <= a).sum()), 300, a).pvalue > 0.01


def test_power_is_what_is_stated():
    "The smallest leak is found in at least 80 % of simulated leaks; one copy fewer would not be."
    for n1,n0,n,alpha in ((400, 400, 400, 0.05), (400, 200, 400, 0.05/15), (1000, 300, 2000, 0.01)):
        L, share = m.smallest_leak(n1, n0, n, alpha)
        assert share == L/n
        g, label = rng(8, n1), np.arange(n1 + n0) < n1
        def found(copies, g=g, label=label, alpha=alpha):
            s = g.standard_normal(len(label))
            s[:copies] += 20
            return m.tail_test(label, s, np.arange(len(label)), g).value <= alpha
        assert np.mean([found(L) for _ in range(200)]) > 0.8 - 2.6*np.sqrt(0.16/200)
        assert m.leak_power(n1, n0, L - 1, alpha) < 0.8 <= m.leak_power(n1, n0, L, alpha)
        assert m.leak_power(n1, n0, 0, alpha) < alpha + 0.03
    assert 'too few' in m.smallest_leak(20, 3, 20, 1e-3)


@pytest.mark.parametrize('share', [0.1, 0.05, 0.01])
def test_planted_leaks_are_found_where_the_power_says_so(share):
    "Verbatim stays among innocent ones; the nearest record, so that no reference is spared."
    n, found, stated = 1600, [], []
    for seed in range(3):
        train, holdout = toy_cohort(2*n, seed=10 + seed).split_by_subject(seed=seed)
        synth = Leak(share, toy_cohort(n, seed=20 + seed)).fit(train).sample(n, seed)
        d = m.privacy_scores(train, holdout, synth, n_boot=5, seed=seed, attacks=('nearest',), representations=('summary', 'series'))
        row = main(d, 'smallest_leak').loc['people']
        stated.append(row.value)
        found.append(main(d, 'membership_tail_p').value['best'] <= 0.05)
        tpr = main(d, 'membership_tpr', 'fpr=0.001').loc['series']
        if share >= 0.05: assert tpr.low > 0.01 # ten times chance
    assert max(stated) < 0.01 and all(found), (stated, found)


def test_leak_below_the_stated_power_is_admitted(people, fresh):
    train, holdout = people
    d = m.privacy_scores(train, holdout, Leak(0.01, fresh).fit(train).sample(400), n_boot=5, attacks=('nearest',))
    assert main(d, 'smallest_leak').value['people'] > 0.01


# epsilon

def test_epsilon_of_randomised_response():
    "A mechanism that is exactly eps-private is refuted below eps, and above it no more often than stated."
    g, n = rng(9), 2000
    label = np.arange(n) < n//2
    for eps in (0.5, 2.):
        b = [m.epsilon_bound(label, dict(a=np.where(g.random(n) < 1/(1 + np.exp(-eps)), label, ~label) + 0.), np.arange(n), g)[0].value
             for _ in range(60)]
        assert np.mean(np.array(b) > eps) <= 0.08 and np.mean(b) > 0.6*eps


def test_epsilon_needs_evidence_and_allows_for_delta():
    label, g = np.arange(600) < 300, rng(10)
    noise = {f'{k}': g.standard_normal(600) for k in range(15)}
    assert np.mean([m.epsilon_bound(label, noise, np.arange(600), rng(k))[0].value > 0 for k in range(15)]) <= 0.14
    perfect = dict(a=label + 0.)
    small, large = (m.epsilon_bound(label, perfect, np.arange(600), rng(0), delta=d)[0].value for d in (1e-5, 0.5))
    assert small > 3.5 and large < small - 0.5
    few = m.epsilon_bound(label[::10], dict(a=label[::10] + 0.), np.arange(60), rng(0))[0].value
    assert 0 < few < small # fewer people can refute less
    upside_down = m.epsilon_bound(label, dict(a=1. - label), np.arange(600), rng(0))[0].value
    assert upside_down == 0 # the other direction would be another attack


# controls

def test_copies_are_found_by_every_attack(arms):
    assert main(arms['copy']).value.min() > 0.99 and main(arms['noisy']).value.min() > 0.95
    assert main(arms['copy'], 'membership_tail_p').value.max() < 0.002 and main(arms['copy'], 'membership_epsilon').value['best'] > 3


def test_overfitted_generator(arms):
    d = main(arms['overfit'])
    assert d.value['best'] > 0.6 and d.low['best'] > 0.5 and main(arms['overfit'], 'membership_epsilon').value['best'] > 0.5
    assert (d.drop('best').low > 0.5).all()


def test_a_tenth_is_found(arms):
    d = arms['leak']
    assert main(d, 'membership_tail_p').value.max() < 0.01
    assert main(d, 'membership_tpr', 'fpr=0.01').low[['summary', 'series', 'joint']].min() > 0.05


@pytest.mark.parametrize('arm', ['fresh', 'marginals'])
def test_strangers_are_not_found(arms, arm):
    d = main(arms[arm])
    assert len(d) == 16 and holds_half(d).all()
    assert main(arms[arm], 'membership_tail_p').value['best'] > 0.05 and main(arms[arm], 'membership_epsilon').value.max() == 0


def test_null_over_splits_and_releases():
    "The mean AUC is one half, and intervals and p values err as often as they say."
    rows, quick = [], ('nearest', 'calibrated', 'density', 'neighbourhood')
    for seed in range(25):
        train, holdout = toy_cohort(300, seed=1000 + seed).split_by_subject(seed=seed)
        d = m.privacy_scores(train, holdout, toy_cohort(150, seed=3000 + seed), n_boot=60, seed=seed, attacks=quick,
                             representations=('summary', 'series'))
        rows.append(pd.DataFrame(dict(auc=main(d).value, out=(main(d).low > 0.5) | (main(d).high < 0.5), p=main(d, 'membership_tail_p').value)))
    d = pd.concat(rows)
    mean = d.groupby(level=0).auc.agg(['mean', 'sem'])
    assert (np.abs(mean['mean'] - 0.5) < 4*mean['sem']).all()
    assert d.out.mean() < 0.13 and (d.p <= 0.05).mean() < 0.13 # the attacks of one release go together
    assert (d.p['best'] <= 0.05).sum() <= 4


@pytest.mark.parametrize('name', m.ATTACKS)
def test_null_of_an_attack(name):
    "Records of equal origin, another reference and release each time."
    g, label = rng(13), np.arange(100) < 50
    found = [auc(label, m.attack(name, *(g.standard_normal((k, 8)).astype('float32') for k in (60, 40, 100)))) for _ in range(30)]
    assert abs(np.mean(found) - 0.5) < 4*np.std(found)/np.sqrt(30)
    assert 0.03 < np.std(found) < 0.09 # 0.058 without ties


# the frame

def test_frame_is_tidy(arms):
    for d in arms.values():
        assert list(d) == list(COLUMNS) and not d.duplicated(['metric', 'feature', 'group']).any()
        ok = ~d.note.str.startswith('not estimable')
        assert np.isfinite(d.loc[ok, ['value', 'low', 'high']]).all(axis=None) and d.loc[~ok, 'value'].isna().all()
        assert set(d.metric) == set(m.DIRECTIONS)
        assert ((d.low <= d.value + 1e-9) & (d.value <= d.high + 1e-9))[ok].all()
    assert main(arms['fresh'], 'membership_tpr', 'fpr=0.001').note.str.contains('non-members are too few').all()


def test_groups(people, fresh):
    train, holdout = toy_cohort(2400, seed=3).split_by_subject(seed=0)
    synth = VerbatimCopy().fit(train).sample(1200)
    ev = m.attack_evidence(train, holdout, synth, attacks=('nearest', 'calibrated'), representations=('joint',), rare=0.3)
    d = m.privacy_scores(train, holdout, synth, n_boot=20, evidence=ev)
    for name in ('died', 'outliers', 'rare'): assert main(d, group=f'group={name}').value.min() > 0.98
    assert 0.08 < len(set(ev.people[ev.groups['outliers']]))/len(set(ev.people[ev.spared])) < 0.12
    a, b = (ev.groups['outliers'][side & ev.spared].mean() for side in (ev.member, ~ev.member))
    assert abs(a - b) < 0.06 # the rule does not know who is a member
    small = m.privacy_scores(*people, fresh, n_boot=5, attacks=('nearest',), representations=('joint',))
    assert main(small, group='group=rare').note.iloc[0].startswith('not estimable: no level of a categorical variable')
    few = main(m.privacy_scores(*toy_cohort(300, seed=1).split_by_subject(seed=0), fresh, n_boot=5, attacks=('nearest',)), group='group=outliers')
    assert few.note.str.contains('each needs 30').all()


def test_the_reference_is_nobody_else(people, fresh):
    train, holdout = people
    ev = m.attack_evidence(train, holdout, fresh, seed=4)
    known = m.reference_stays(holdout, 0.5, 4)
    assert not set(holdout.subject_id[known]) & set(holdout.subject_id[~known])
    assert np.array_equal(ev.spared, np.r_[np.ones(len(train), bool), ~known])
    dead = [(holdout.outcome[side] > 0).mean() for side in (known, ~known)]
    assert abs(dead[0] - dead[1]) < 0.03


def test_same_seed_same_frame(people, fresh):
    a, b, c = (m.privacy_scores(*people, fresh, n_boot=10, seed=s, representations=('summary',)) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert not a.value.equals(c.value)


def test_roc():
    g = rng(11)
    label, s = np.arange(5000) < 3000, g.standard_normal(5000)
    r = m.roc_points(label, s + 2*label)
    assert len(r) <= 200 and list(r) == m.ROC[1:] and r.fpr.iloc[0] == 0 and r.iloc[-1].tpr == 1
    assert ((r.low <= r.tpr) & (r.tpr <= r.high)).all() and (r.fpr.diff().dropna() > 0).all()
    for k in (0, len(r)//3, len(r)//2): # by counting
        e = r.iloc[k]
        t = np.sort((s + 2*label)[~label])[::-1][round(e.fpr*2000) - 1] if e.fpr else np.max((s + 2*label)[~label]) + 1e-12
        next_ = np.sort((s + 2*label)[~label])[::-1][round(e.fpr*2000)]
        assert ((s + 2*label)[label] >= t).mean() <= e.tpr <= ((s + 2*label)[label] > next_).mean()
    flat = m.roc_points(label, np.zeros(5000))
    assert flat[['fpr', 'tpr']].to_numpy().tolist() == [[0, 0], [1, 1]]


def test_roc_of_every_attack(people, fresh):
    ev = m.attack_evidence(*people, fresh, representations=('summary',))
    r = m.membership_roc(ev, most=50)
    assert set(r.attack) == set(ev.scores) and r.groupby('attack').size().max() <= 50
    assert r.set_index('attack').non_members['summary'].iloc[0] == len(people[1])
    assert r.set_index('attack').non_members['density summary'].iloc[0] == int((ev.spared & ~ev.member).sum())


# shadow models

@pytest.fixture(scope='module')
def small(): return toy_cohort(360, seed=2).split_by_subject(seed=0)


def shadows_of(train, holdout, make, k, seed=0):
    both = concat([train, holdout])
    ids = both.subject_id.astype(str)
    return [(who, make().fit(both.take(np.isin(ids, who))).sample(len(train), seed=j))
            for j,who in enumerate(shadow.shadow_people(ids, k, seed))]


@pytest.mark.parametrize('n,k', [(10, 2), (101, 6), (37, 16)])
def test_shadow_people(n, k):
    ids = [f'p{j}' for j in range(n)]
    halves = shadow.shadow_people(ids + ids[:3], k, seed=3)
    assert len(halves) == k and all(len(set(h)) == len(h) for h in halves)
    assert set(pd.Series(np.concatenate(halves)).value_counts()) == {k//2}
    assert {len(h) for h in halves} <= {n//2, n - n//2}
    if k > 2: assert set(halves[0]) != set(halves[2])


def test_likelihood_ratio_reaches_the_optimum():
    g, n, K = rng(12), 6000, 48
    base, label, inside = 4*g.standard_normal(n), np.arange(n) < n//2, np.zeros((K, n), bool)
    for j in range(0, K, 2): inside[j] = g.permutation(n) < n//2; inside[j + 1] = ~inside[j]
    phi, target = base + inside + g.standard_normal((K, n)), base + label + g.standard_normal(n)
    s, how = shadow.likelihood_ratio(target, shadow.fit_shadows(phi, inside))
    assert how == 'online' and auc(label, target) < 0.58 and auc(label, s) > auc(label, target - base) - 0.015
    off, how = shadow.likelihood_ratio(target, shadow.fit_shadows(phi, np.zeros_like(inside)))
    assert how == 'offline' and auc(label, off) > 0.7


def test_shadow_controls(small):
    train, holdout = small
    for make,floor in ((VerbatimCopy, 0.99), (lambda: Overfit(stays=0, bandwidth=0.5), 0.6)):
        sh = shadows_of(train, holdout, make, 4)
        d = shadow.shadow_scores(train, holdout, make().fit(train).sample(len(train), seed=9), sh, n_boot=20)
        assert main(d).value.min() > floor and main(d, 'membership_tail_p').value['shadow best'] < 0.01
        assert d[~d.note.str.startswith('not estimable')].note.str.contains('4 shadow models, algorithm, online').all()
    stranger = main(shadow.shadow_scores(train, holdout, toy_cohort(len(train), seed=8), sh, n_boot=60))
    assert len(stranger) == 7 and holds_half(stranger).all()


def test_shadow_ratio_beats_the_distance(small):
    train, holdout = small
    make = lambda: Overfit(stays=0, bandwidth=0.7)
    synth, sh = make().fit(train).sample(len(train), seed=9), shadows_of(train, holdout, make, 6)
    with_, without = (main(d).value for d in (shadow.shadow_scores(train, holdout, synth, sh, n_boot=5),
                                              m.privacy_scores(train, holdout, synth, n_boot=5, attacks=('nearest',))))
    gain = [with_[f'shadow nearest {r}'] - without[r] for r in m.REPRESENTATIONS]
    assert min(gain) > 0 and max(gain) > 0.05


def test_shadow_refusals(small):
    train, holdout = small
    one = [(train.subject_id[:9], holdout)]
    assert shadow.shadow_scores(train, holdout, train, one).note.tolist() == ['not estimable: 1 shadow models; it takes 2']
    with pytest.raises(SynkError, match='neither in train nor in holdout'): shadow.shadow_evidence(train, holdout, train, [(['x'], train)]*2)
    with pytest.raises(SynkError, match='records were in every shadow'):
        shadow.shadow_evidence(train, holdout, train, [(np.r_[train.subject_id, holdout.subject_id], train)]*2, representations=('summary',))
    for k in (0, 3): # pairs
        with pytest.raises(SynkError, match='must be even'): shadow.shadow_people(train.subject_id, k)
    with pytest.raises(SynkError, match='cannot be halved'): shadow.shadow_people(['a'], 2)
    with pytest.raises(SynkError, match='in train and in holdout'): shadow.shadow_evidence(train, train, train, one*2)


# bad input

def test_overlap_and_schemas_are_refused(people, fresh):
    train, holdout = people
    mixed = concat([holdout, replace(train.take(np.arange(2)), stay_id=['x1', 'x2'])])
    for call in (m.privacy_scores, m.attack_evidence):
        with pytest.raises(SynkError, match='[12] people are in train and in holdout'): call(train, mixed, fresh)
        with pytest.raises(SynkError, match='different schemas'): call(train, holdout, toy_cohort(40, hours=30))
        with pytest.raises(SynkError, match="no attack 'neerest'; .*Did you mean 'nearest'"): call(train, holdout, fresh, attacks=('neerest',))
        with pytest.raises(SynkError, match="no representation 'static'"): call(train, holdout, fresh, representations=('static',))
    with pytest.raises(SynkError, match='reference_share must lie between 0 and 1, not 1'): m.attack_evidence(train, holdout, fresh, reference_share=1)


@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_too_few(people, fresh):
    train, holdout = people
    for t,h,s in ((train, holdout, fresh.take(np.arange(7))), (train, holdout.take(np.arange(20)), fresh), (train.take(np.arange(20)), holdout, fresh)):
        d = m.privacy_scores(t, h, s)
        assert len(d) == 16 and d.note.str.match(r'not estimable: \d+ people in train, \d+ in holdout and \d+ synthetic stays; each needs 30').all()
        with pytest.raises(SynkError, match='no membership attack is possible'): m.attack_evidence(t, h, s)
    d = m.privacy_scores(train, holdout.take(np.arange(45)), fresh, n_boot=10) # enough for the nearest record alone
    gone = main(d)[main(d).note.str.contains('too few to spare a reference')].index
    assert {k.split()[0] for k in gone} == set(REFERENCE) and len(gone) == 12
    assert np.isfinite(main(d).value[['summary', 'series', 'joint', 'best']]).all()
    one = replace(holdout, subject_id=['somebody']*len(holdout)) # many stays of one person
    assert m.privacy_scores(train, one, fresh).note.str.contains('1 in holdout').all()


@pytest.mark.filterwarnings('error::RuntimeWarning')
@pytest.mark.parametrize('what', ['constant', 'unmeasured', 'one_stay_repeated', 'thirty'])
def test_degenerate_releases(people, fresh, what):
    train, holdout = people
    values = fresh.values.copy()
    if what == 'constant': values[~np.isnan(values)] = 1
    if what == 'unmeasured': values[:] = np.nan
    c = replace(fresh, values=values)
    if what == 'one_stay_repeated': c = replace(fresh.take(np.zeros(100, int)), stay_id=np.arange(100))
    if what == 'thirty': c = fresh.take(np.arange(30))
    d = m.privacy_scores(train, holdout, c, n_boot=100, representations=('summary', 'series'))
    ok = ~d.note.str.startswith('not estimable')
    assert np.isfinite(d.loc[ok, ['value', 'low', 'high']]).all(axis=None)
    f = main(d)
    assert holds_half(f[f.value.notna()]).all()
