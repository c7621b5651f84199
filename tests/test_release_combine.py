"Combining several synthetic copies: by hand, against bad input, and by simulated coverage."
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from synkmimic.core import SynkError, rng
from synkmimic.release.combine import RULES, combine, combine_copies, coverage, regression_copies

def test_published_formula():
    q, u = np.array([0.8, 1.1, 1.4, 0.9, 1.3]), np.array([0.02, 0.03, 0.02, 0.01, 0.02])
    r = combine(q, u, cap=False).iloc[0]
    b, v = q.var(ddof=1), u.mean()
    T, nu = 1.2*b - v, 4*(1 - v/(1.2*b))**2
    assert np.allclose([r.estimate, r.se**2, r.df], [q.mean(), T, nu])
    assert np.allclose([r.low, r.high], q.mean() + np.array([-1, 1])*stats.t.ppf(0.975, nu)*np.sqrt(T))

def test_parameters_are_combined_one_by_one_and_keep_their_names():
    g = rng(0, 'test', 'combine')
    q, u = pd.DataFrame(g.normal(size=(6, 3)), columns=list('abc')), g.random((6, 3))*0.2
    whole = combine(q, u)
    assert whole.parameter.tolist() == list('abc')
    for k in range(3):
        one = combine(q.iloc[:, k].to_numpy(), u[:, k])
        assert np.allclose(one[['estimate', 'se', 'low', 'high']], whole.loc[[k], ['estimate', 'se', 'low', 'high']])

def test_a_negative_variance_is_replaced_and_named():
    r = combine([1., 1.01, 0.99], [0.4]*3, size_ratio=0.5).iloc[0]
    assert r.se**2 == pytest.approx(0.2) and 'Reiter 2002' in r.note

def test_the_size_of_the_copies_counts():
    small, large = (combine([1., 2, 3], [0.5]*3, 'plugin', size_ratio=k).se[0] for k in (1, 4))
    assert large**2 - small**2 == pytest.approx(3*0.5)

@pytest.mark.parametrize('q, u, said', [([1.], [1.], '1 copy'), ([1., 2], [1., 2, 3], 'one variance per estimate'),
                                        ([1., np.inf], [1., 1.], '1 estimates or variances'), ([1., 2], [1., -1], '1 variances are negative'),
                                        ([], [], 'shape')])
def test_bad_input(q, u, said):
    with pytest.raises(SynkError, match=said): combine(q, u)

def test_bad_options():
    with pytest.raises(SynkError, match='plugin'): combine([1., 2], [1., 1], rule='plug-in')
    with pytest.raises(SynkError, match='level'): combine([1., 2], [1., 1], level=95)

def test_an_analysis_that_drops_a_parameter_is_refused():
    answers = [({'a': 1., 'b': 2.}, {'a': 1., 'b': 1.}), ({'a': 1.}, {'a': 1.})]
    with pytest.raises(SynkError, match="copy 2.*'b'"): combine_copies(range(2), lambda k: answers[k])

def test_order_of_parameters_does_not_matter():
    answers = [({'a': 1., 'b': 5.}, {'b': 0.2, 'a': 0.1}), ({'b': 6., 'a': 2.}, {'a': 0.1, 'b': 0.2})]
    r = combine_copies(range(2), lambda k: answers[k]).set_index('parameter')
    assert r.estimate.to_dict() == {'a': 1.5, 'b': 5.5} and r.within_copy.to_dict() == pytest.approx({'a': 0.1, 'b': 0.2})

def cells(m, repeats, n): return {(d, k): coverage(*regression_copies(repeats, n, m, d, seed=1), 0.5, k) for d in RULES for k in (*RULES, 'one copy')}

def test_coverage_small():
    c = cells(5, 400, 60)
    assert c['posterior', 'posterior']['covers'] > 0.92 and 0.91 < c['plugin', 'plugin']['covers'] < 0.98
    assert c['posterior', 'one copy']['covers'] < 0.82 and c['plugin', 'one copy']['covers'] < 0.89

@pytest.mark.slow
@pytest.mark.parametrize('m', [5, 20])
def test_coverage_large(m):
    c = cells(m, 4000, 100)
    assert 0.945 < c['posterior', 'posterior']['covers'] < 0.995
    assert abs(c['plugin', 'plugin']['covers'] - 0.95) < 0.025
    for drawn,parts in (('posterior', 3), ('plugin', 2)):
        assert abs(c[drawn, 'one copy']['covers'] - (2*stats.norm.cdf(stats.norm.ppf(0.975)/np.sqrt(parts)) - 1)) < 0.025

@pytest.mark.slow
def test_coverage_of_a_share_on_the_logit_scale(): # beta-binomial: nothing is normal here
    g, repeats, n, p = rng(2, 'test', 'share'), 10_000, 400, 0.1
    for m in (5, 20):
        real = g.binomial(n, p, repeats)
        for rule,chance in (('posterior', g.beta(real + 0.5, n - real + 0.5, (m, repeats))), ('plugin', np.broadcast_to(real/n, (m, repeats)))):
            x = (g.binomial(n, chance) + 0.5)/(n + 1)
            c = coverage(np.log(x/(1 - x)), 1/(n*x*(1 - x)), np.log(p/(1 - p)), rule)
            assert 0.935 < c['covers'] < 0.995, (m, rule)
