"The Korean guide's indicators: against loops over the definition, on controls, and on bad input."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from synkmimic.core import ConfigError, SynkError, rng
from synkmimic.models.controls import IndependentMarginals, NoisyCopy, VerbatimCopy
from synkmimic.privacy import pipc
from synkmimic.privacy.pipc import PipcOptions, pipc_scores, pipc_table
from synkmimic.stats import estimable
from synkmimic.toy import toy_cohort

QUICK = PipcOptions(splits=100, draws=3)

@pytest.fixture(scope='module')
def sides():
    train, holdout = toy_cohort(600, seed=0).split_by_subject(seed=0)
    return train, holdout, toy_cohort(300, seed=5)

@pytest.fixture(scope='module')
def arms(sides):
    train, holdout, fresh = sides
    far = replace(fresh, static=fresh.static.assign(age=900. + np.arange(len(fresh)), weight=5000.), values=fresh.values + np.float32(900))
    made = dict(copy=VerbatimCopy().fit(train).sample(300), noisy=NoisyCopy().fit(train).sample(300), fresh=fresh,
                marginals=IndependentMarginals().fit(train).sample(300), far=far)
    return {k: pipc_scores(train, holdout, c, QUICK, n_boot=60) for k,c in made.items()}

def row(d, metric, feature, group=''):
    return d[(d.metric == metric) & (d.feature == feature) & (d.group == group)].iloc[0]

def test_controls(arms):
    v = {k: row(d, 'inference', 'gower').value for k,d in arms.items()}
    assert v['copy'] == 1 and v['noisy'] > 0.99 and 0.35 < v['fresh'] < 0.6 and v['far'] < 0.02
    assert row(arms['copy'], 'single_out', 'record').value == 1 and row(arms['fresh'], 'single_out', 'record').value == 0

def test_linkability_control(sides):
    "With identifiers that nearly single out, a copy tells more of its people than of strangers."
    train, holdout, _ = sides
    o = PipcOptions(identifiers=('age', 'sex', 'weight', 'admission_type'), splits=3, draws=2)
    d = pipc_scores(train, holdout, VerbatimCopy().fit(train).sample(300), o, n_boot=60)
    e = row(d, 'linkability_excess', 'diagnosis')
    assert e.low > 0.3
    assert e.value == pytest.approx(row(d, 'linkability_above', 'diagnosis').value - row(d, 'linkability_above', 'diagnosis', 'holdout').value, abs=1e-6)

def test_fresh_people_have_no_excess():
    "The interval of the excess holds 0 for independent people, in all but a few of twelve wards."
    o, inside = PipcOptions(identifiers=('age', 'sex', 'weight', 'admission_type'), splits=2, draws=2), 0
    for seed in range(12):
        train, holdout = toy_cohort(600, seed=seed).split_by_subject(seed=seed)
        e = row(pipc_scores(train, holdout, toy_cohort(300, seed=seed + 100), o, n_boot=60), 'linkability_excess', 'diagnosis')
        inside += e.low <= 0 <= e.high
    assert inside >= 9

def test_thresholds_part_innocent_from_copied(arms):
    for k,verdict in dict(copy='above', noisy='above', fresh='below', far='below').items():
        t = pipc_table(arms[k], QUICK).set_index(['indicator_en', 'feature'])
        assert t.verdict[('inference risk', 'gower')] == verdict, k
    assert pipc_table(arms['copy'], QUICK).query("feature == 'record'").verdict.item() == 'above'
    limit = {m: row(arms['fresh'], f'{m}_threshold', 'all', 'simulation').value for m in ('bivariate_sd', 'pmse_logistic')}
    assert row(arms['marginals'], 'bivariate_sd', 'all').value > limit['bivariate_sd'] > row(arms['copy'], 'bivariate_sd', 'all').value
    assert row(arms['far'], 'pmse_logistic', 'all').value > 0.2 > limit['pmse_logistic'] > row(arms['copy'], 'pmse_logistic', 'all').value

def test_table_words(arms):
    for d in arms.values():
        t = pipc_table(d, QUICK)
        assert set(t.verdict) <= {'below', 'above', 'not evaluated'}
        assert {'구별 위험도', '추론 위험도'} <= set(t.indicator_ko) and t.indicator_ko.str.contains('연결 위험도').any()
        assert (t.example_note[t.guide_example.notna()] == pipc.EXAMPLE_NOTE).all()
        assert not t.astype(str).apply(lambda c: c.str.contains('certif|safe|anonym', case=False)).any().any()

def by_loops(A, B, options):
    "Inference risk of frames by loops over the definition."
    near = lambda r, S, skip: min((dist(r, s), k) for k,(_,s) in enumerate(S.iterrows()) if k != skip)
    span = A.select_dtypes('float').max() - A.select_dtypes('float').min()
    def dist(r, s):
        total, n = 0., 0
        for c in A.columns:
            x, y = r[c], s[c]
            if pd.isna(x) or pd.isna(y):
                if options.missing == 'left_out': continue
                total += pd.isna(x) != pd.isna(y)
            elif c in span and span[c] > 0: total += abs(x - y)/span[c]
            else: total += x != y
            n += 1
        return round(total/n, 10) if n else 1.
    hit = count = 0.
    for _,s in B.iterrows():
        d, k = near(s, A, -1)
        d_other = near(A.iloc[k], A, k)[0]
        if d == d_other and options.ties == 'excluded' or d == 0 and options.zeros == 'excluded': continue
        hit += (d < d_other) + dict(half=0.5, counted=1, excluded=0)[options.ties]*(d == d_other)
        count += 1
    return hit/count

@pytest.mark.parametrize('options', [PipcOptions(), PipcOptions(missing='left_out'), PipcOptions(ties='half'), PipcOptions(ties='counted', zeros='excluded')],
                         ids=['default', 'left_out', 'half', 'counted'])
def test_inference_equals_loops(options):
    g = rng(0, 'loops')
    def frame(n):
        level = lambda k: pd.Categorical.from_codes(g.integers(-1, k, n), categories=[f'l{j}' for j in range(k)])
        number = g.integers(0, 5, n).astype('float64') # coarse: ties and zeros happen
        return pd.DataFrame(dict(a=np.where(g.random(n) < 0.2, np.nan, number), b=level(3), c=g.random(n).round(1), d=level(2)))
    A, B = frame(25), frame(30)
    a, b = (pipc.gower_columns(f, A, options.missing) for f in (A, B))
    around = pipc.gower_nearest(a, a, own=(np.arange(25),)*2)[0][:, 0]
    x, counted = pipc.inference_risk(a, b, around, options)
    assert x[counted].mean() == pytest.approx(by_loops(A, B, options), abs=1e-12)

@pytest.mark.parametrize('neighbours', [2, 3, 32])
def test_half_splits_equal_brute_force(sides, neighbours):
    train = sides[0].take(np.arange(120))
    o, f = PipcOptions(neighbours=neighbours), pipc.pipc_frame(train, train)
    c, labels = pipc.gower_columns(f, f), np.arange(120)
    halves = pipc.half_splits(train.subject_id, 15, rng(1))
    near = pipc.gower_nearest(c, c, k=neighbours, own=(labels, labels))
    fast = pipc.inference_splits(c, near, labels, halves, o)
    for value,h in zip(fast, halves):
        assert not set(train.subject_id[h]) & set(train.subject_id[~h])
        A, B = c.take(h), c.take(~h)
        AA, D = pipc.gower(A, A), pipc.gower(B, A)
        np.fill_diagonal(AA, np.inf)
        d, other = D.min(1), AA.min(1)[D.argmin(1)]
        assert value == pytest.approx((d < other)[d != other].mean(), abs=1e-12)

def test_cap_equals_loops():
    g = rng(2)
    K, T, k, t = (g.integers(0, n, m) for n,m in ((6, 40), (3, 40), (5, 60), (3, 60)))
    v, matched = pipc.cap(K, T, k, t)
    for j in range(40):
        same = k == K[j]
        assert matched[j] == same.any() and v[j] == pytest.approx((t[same] == T[j]).mean() if same.any() else 0)

def test_every_quasi_identifier_counts(sides):
    "Change age alone, nothing else: frame, distance and combinations all move."
    train = sides[0]
    f = pipc.pipc_frame(train, train)
    a, _ = pipc.IDENTIFIERS[0], pipc.identifier_names(train.schema, PipcOptions())
    for name in pipc.identifier_names(train.schema, PipcOptions()):
        level = isinstance(f[name].dtype, pd.CategoricalDtype)
        moved = f.assign(**{name: pd.Categorical.from_codes((f[name].cat.codes + 1) % len(f[name].cat.categories), dtype=f[name].dtype) if level else f[name] + 20})
        d = pipc.gower(pipc.gower_columns(moved.iloc[:5], f), pipc.gower_columns(f.iloc[:5], f)).diagonal()
        assert (d > 0).all(), name
        assert (pipc.coarse(moved, f, (name,), PipcOptions()) != pipc.coarse(f, f, (name,), PipcOptions())).to_numpy().mean() > 0.9, name
    assert a == 'age'

def test_unmatched_and_strictness(sides):
    train, holdout, fresh = sides
    far = fresh.take(fresh.static.age.to_numpy() < 60) # nobody in it is old
    value = {u: row(pipc_scores(train, holdout, far, replace(QUICK, unmatched=u, splits=5), n_boot=20), 'linkability_mean', 'outcome') for u in ('zero', 'left_out')}
    assert value['zero'].value < value['left_out'].value and value['left_out'].n < value['zero'].n == len(train)
    assert pipc._verdict(0.5, 0.5, True) == 'above' and pipc._verdict(0.5, 0.5, False) == 'below' and pipc._verdict(0.5, np.nan, True) == 'not evaluated'

def test_person_is_no_other(sides):
    "With other=person the second stay of the same person is no neighbour."
    train = sides[0]
    twice = replace(train, subject_id=np.repeat(np.arange(len(train)//2 + 1), 2)[:len(train)])
    labels = pipc._labels(twice.subject_id, PipcOptions(other='person'))
    f = pipc.pipc_frame(twice, twice)
    _, at = pipc.gower_nearest(pipc.gower_columns(f, f), pipc.gower_columns(f, f), own=(labels, labels))
    assert (labels[at[:, 0]] != labels).all()

def test_size_correction_only_for_single_out():
    ids, halves = np.repeat(np.arange(20), 3), pipc.half_splits(np.arange(60), 30, rng(0))
    plain, corrected = (pipc.single_out_splits(ids, halves, PipcOptions(size_correction=c)) for c in (False, True))
    assert np.allclose(corrected, 1 - (1 - plain)**2) and (corrected > plain).any()
    shared = [pipc.single_out_splits(ids, halves, PipcOptions(hits='shared', size_correction=c)) for c in (False, True)]
    assert (shared[0] == shared[1]).all() and shared[0].max() < 1

def test_bad_input(sides):
    train, holdout, fresh = sides
    for wrong,what in ((dict(identifiers=('gender_age',)), 'no static variable'), (dict(identifiers=('agee',)), "Did you mean 'age'"),
                       (dict(sensitive=('outcom',)), "Did you mean 'outcome'")):
        with pytest.raises(SynkError, match=what): pipc_scores(train, holdout, fresh, PipcOptions(**wrong))
    for wrong in (dict(ties='drop'), dict(splits=0), dict(quantile=2.), dict(strict=('cap',))):
        with pytest.raises(ConfigError): PipcOptions(**wrong)
    with pytest.raises(SynkError, match='people are in train and in holdout'): pipc_scores(train, train, fresh)
    few = pipc_scores(train, holdout, fresh.take(np.arange(3)))
    assert not len(estimable(few)) and few.note.str.contains('each needs 30').all()

def test_constant_and_unique_identifiers_say_so(sides):
    o = PipcOptions(splits=3, draws=2, identifiers=('sex',))
    one = [replace(c, static=c.static.assign(sex='M')) for c in sides]
    assert 'constant' in row(pipc_scores(*one, o, n_boot=10), 'linkability_mean', 'outcome').note
    o = replace(o, identifiers=('weight', 'los', 'age'), bins=500, age_band=2)
    assert 'its own combination' in row(pipc_scores(*sides, o, n_boot=10), 'linkability_above', 'outcome').note
    assert (pipc_table(pipc_scores(*one, replace(o, identifiers=('sex',)), n_boot=10), o).query("indicator_en.str.contains('linkability')").verdict == 'not evaluated').all()

def test_deterministic(sides):
    a, b = (pipc_scores(*sides, replace(QUICK, splits=5), n_boot=20, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(a, b)
