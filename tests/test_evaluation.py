"The control matrix: each metric is moved by the control that should move it, and by no other; and bad input."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from synkmimic import stats
from synkmimic.core import SynkError, rng
from synkmimic.evaluation import EvaluationConfig, evaluate, evaluate_arms, metric_registry
from synkmimic.fidelity.clinical import clinical_scores
from synkmimic.fidelity.embedding import embedding_scores
from synkmimic.fidelity.joint import joint_scores
from synkmimic.fidelity.marginal import marginal_scores
from synkmimic.fidelity.subgroups import subgroup_scores
from synkmimic.fidelity.temporal import temporal_scores, within_stay_acf
from synkmimic.models.controls import CONTROLS, Leak
from synkmimic.privacy.membership import privacy_scores
from synkmimic.toy import ar1, toy_cohort
from synkmimic.utility.prediction import utility_scores

QUICK = EvaluationConfig(privacy_parts=("membership",), n_boot=60, lags=(1, 2, 3, 4), tasks=('death',), models=('logistic',), curve_bins=0, gru_epochs=4)


@pytest.fixture(scope='module')
def people(): return toy_cohort(1000, seed=0).split_by_subject(seed=0)


@pytest.fixture(scope='module')
def matrix(people):
    "Every control through every pillar, once."
    train, holdout = people
    arms = {k: c().fit(train).sample(len(train)) for k,
            c in CONTROLS.items()} | {'fresh': toy_cohort(len(train), seed=5)}
    return evaluate_arms(train, holdout, arms, QUICK)


def get(matrix, arm, metric, feature='all', group=''):
    d = matrix[(matrix.arm == arm) & (matrix.metric == metric) & (matrix.feature == feature) & (matrix.group == group)]
    assert len(d) == 1, f'{len(d)} rows of {metric} in {arm}'
    return d.iloc[0]


# every metric that sees all variables at once, the hours together, or a network: (metric, what moves it, what must not)
SPACE = ['mmd', 'sliced_wasserstein', 'density', 'coverage', 'alpha_precision', 'beta_recall', 'authenticity', 'pmse_ratio', 'pmse_standardised']
HOURS = ['hour_spearman_difference', 'lagged_correlation_difference', 'comeasurement_difference', 'predictive_difference', 'discriminative_score']
NEW = [*SPACE, *HOURS, 'c2st_auc_values']

MARGINAL = ['ks', 'ks_values', 'wasserstein', 'tvd', 'missing_rate_gap', 'prevalence_stays_gap', 'missing_by_hour']


@pytest.mark.parametrize('metric', [*MARGINAL, 'spearman_difference', 'acf_gap', 'step_ks', 'transition_tvd', 'gap_ks',
                                    'length_ks'])
@pytest.mark.parametrize('arm', ['verbatim_copy', 'fresh'])
def test_copy_and_fresh_lie_in_the_band(matrix, arm, metric):
    feature = 'all'
    band = get(matrix, 'real', metric, feature)
    assert get(matrix, arm, metric, feature).low <= band.high + 0.01


@pytest.mark.parametrize('arm,metric,factor',
                         [('independent_marginals', 'spearman_difference', 3), ('independent_marginals', 'acf_gap', 5),
    ('independent_marginals', 'step_ks', 3), ('independent_marginals', 'transition_tvd', 5),
    ('independent_marginals', 'spread_between_gap', 5),
    ('time_shuffled', 'acf_gap', 5), ('time_shuffled', 'step_ks', 3), ('time_shuffled', 'transition_tvd', 5)])
def test_the_right_control_fails(matrix, arm, metric, factor):
    bad, band = get(matrix, arm, metric), get(matrix, 'real', metric)
    assert bad.low > band.high and bad.value > factor*band.value


@pytest.mark.parametrize('arm,metric',
                         [('independent_marginals', 'ks_values'), ('independent_marginals', 'wasserstein'),
                          ('independent_marginals', 'missing_rate_gap'),
    ('independent_marginals', 'missing_by_hour'), ('time_shuffled', 'ks'), ('time_shuffled', 'spearman_difference'),
    ('label_shuffled', 'acf_gap')])
def test_and_only_that(matrix, arm, metric):
    assert get(matrix, arm, metric).low <= get(matrix, 'real', metric).high + 0.02


def outside(matrix, arm, metric, group='')->bool:
    "Whether an arm lies beyond the real band: its interval and that of the band do not meet, on the bad side."
    bad, band = get(matrix, arm, metric, group=group), get(matrix, 'real', metric, group=group)
    up, down = bad.low > band.high, bad.high < band.low
    return {'lower': up, 'higher': down}.get(bad.direction, up or down)


@pytest.mark.parametrize('metric', NEW)
@pytest.mark.parametrize('arm', ['verbatim_copy', 'fresh'])
def test_new_metrics_accept_people(matrix, arm, metric): assert not outside(matrix, arm, metric)


@pytest.mark.parametrize('metric', NEW)
def test_new_metrics_refuse_independent_marginals(matrix, metric): assert outside(matrix, 'independent_marginals', metric)


@pytest.mark.parametrize('arm,moved,still', [
    ('time_shuffled', ['lagged_correlation_difference', 'predictive_difference', 'discriminative_score'],
     [*(m for m in SPACE if m != 'authenticity'), 'hour_spearman_difference', 'comeasurement_difference', 'c2st_auc_values']),
    ('label_shuffled', [], [*SPACE, *HOURS]),
    ('noisy_copy', [], NEW)])
def test_new_metrics_and_only_that(matrix, arm, moved, still):
    assert [m for m in moved if not outside(matrix, arm, m)] == []
    assert [m for m in still if outside(matrix, arm, m)] == []


def test_what_neutralising_takes_away(matrix):
    "Decimals give a noisy copy away to the raw classifier and to no other; a shuffled order only to the network."
    assert get(matrix, 'noisy_copy', 'c2st_auc_raw').low > 0.9 > 0.6 > get(matrix, 'noisy_copy', 'c2st_auc_values').high
    assert get(matrix, 'time_shuffled', 'c2st_auc_values').high < 0.6 < get(matrix, 'time_shuffled', 'c2st_auc_gru').low


def test_density_and_coverage_within_outcomes(matrix):
    for group in ('level=survived', 'level=icu_death'):
        assert outside(matrix, 'independent_marginals', 'coverage', group) and not outside(matrix, 'fresh', 'coverage', group)


def test_a_copy_of_the_real_side_has_no_authenticity(people):
    "The one control that must move authenticity down: the very people it is compared with."
    holdout = people[1]
    d = embedding_scores(holdout, CONTROLS['verbatim_copy']().fit(holdout).sample(len(holdout)), n_boot=20)
    band = embedding_scores(holdout, people[0], n_boot=20)
    value = lambda e: e[e.metric == 'authenticity'].iloc[0]
    assert value(d).high < 0.01 < value(band).low


def test_condition_obeyed(people):
    train, holdout = people
    share = dict(zip(train.schema.outcomes, np.bincount(train.outcome, minlength=3)/len(train)))
    quick = replace(QUICK, n_boot=20, gru_epochs=0, subgroup_boot=0, max_stays=60)
    arms = dict(obeyed=train, ignored=train)
    asked = dict(obeyed=share, ignored=dict(survived=0.5, icu_death=0.5))
    d = evaluate_arms(train, holdout, arms, quick, pillars=('fidelity',), real=False, asked=asked)
    rows = d[d.metric == 'condition_difference'].set_index(['arm', 'group'])
    assert (rows.loc['obeyed'].value.abs() < 1e-9).all() and (rows.loc['obeyed'].low < 0).all()
    assert rows.loc[('ignored', 'level=survived'), 'low'] > 0 > rows.loc[('ignored', 'level=icu_death'), 'high']
    assert d[d.metric == 'condition_gap'].set_index('arm').value['ignored'] > 0.25
    assert not evaluate_arms(train, holdout, dict(a=train), quick, pillars=('fidelity',), real=False).metric.str.startswith('condition').any()


def test_subgroups_name_the_group_that_is_wrong(people):
    train, holdout = people
    women = (train.static.sex == 'F').to_numpy()[:, None, None]
    bad = replace(train, values=train.values + np.where(women, np.nanstd(train.values, axis=(0, 1)), 0).astype('float32'))
    d = subgroup_scores(holdout, bad, n_boot=20)
    worst = d[d.metric == 'sub_worst'].set_index('feature')
    assert worst.note['c2st_auc_raw'].startswith('sex=F') and {'sex=F', 'sex=M', 'age=<45', 'age=80+', 'outcome=icu_death'} <= set(d.group)
    assert d[(d.group == 'age=<45')].note.str.startswith('not estimable: fewer than 50 stays').all()


def test_classifiers(matrix):
    for arm in ('real', 'verbatim_copy', 'fresh'):
        assert get(matrix, arm, 'c2st_auc_raw').low < 0.55 and get(matrix, arm, 'c2st_auc_gru').low < 0.55
    assert get(matrix, 'independent_marginals', 'c2st_auc_raw').low > 0.9
    assert get(matrix, 'time_shuffled', 'c2st_auc_gru').low > 0.8
    named = matrix[(matrix.arm == 'independent_marginals') & (matrix.metric == 'c2st_importance')]
    assert len(named) and named.value.is_monotonic_decreasing


def test_membership(matrix):
    for attack in ('summary', 'series', 'joint', 'best'):
        e = {a: get(matrix, a, 'membership_auc', attack) for a in matrix.arm.unique()}
        assert e['verbatim_copy'].value > 0.99 and e['noisy_copy'].value > 0.95
        for arm in ('real', 'fresh',
                    'independent_marginals'): assert e[arm].low - 0.01 <= 0.5 <= e[arm].high + 0.01, (arm, attack)
    assert get(matrix, 'verbatim_copy', 'closer_to_train', 'joint').note == 'screen, not evidence of safety'


def test_a_stated_leak_is_found(people):
    train, holdout = people
    innocent = toy_cohort(500, seed=5)
    tpr = {}
    for share in (0., 0.1):
        d = privacy_scores(train, holdout, Leak(share, innocent).fit(train).sample(500), n_boot=20)
        tpr[share] = d[(d.metric == 'membership_tpr') & (d.feature == 'joint') & (d.group == 'fpr=0.01')].iloc[0]
    assert tpr[0.].low <= 0.01 and tpr[0.1].low > 0.05


def test_utility(matrix):
    auc = lambda arm: get(matrix, arm, 'auroc', 'logistic', 'TSTR')
    trtr = get(matrix, 'real', 'auroc', 'logistic', 'TRTR').value
    assert trtr > 0.75 and abs(auc('verbatim_copy').value - trtr) < 0.01 and auc('fresh').value > trtr - 0.05
    assert auc('label_shuffled').value < 0.65
    assert get(matrix, 'label_shuffled', 'auroc_difference', 'logistic', 'TSTR-TRTR').note.startswith('worse')
    assert get(matrix, 'verbatim_copy', 'auroc_difference', 'logistic', 'TSTR-TRTR').note.startswith('equivalent')


def test_independent_marginals_teach_a_random_direction(people):
    "One model fitted to noise may score high or low on real people; over draws it averages one half."
    train, holdout = people
    draws = [CONTROLS['independent_marginals']().fit(train).sample(500, seed=k) for k in range(8)]
    auc = [utility_scores(train, holdout, c, models=('logistic',),
                          n_boot=5).query("group == 'TSTR' and metric == 'auroc'").value.iloc[0] for c in draws]
    assert 0.3 < np.mean(auc) < 0.7 and np.std(auc) > 0.1, auc


def test_frame_is_tidy(matrix):
    assert list(matrix) == ['arm', *stats.COLUMNS]
    assert not matrix.duplicated(['arm', 'metric', 'feature', 'group']).any()
    numbers = ~matrix.note.str.startswith('not estimable')
    assert np.isfinite(matrix.loc[numbers, ['value', 'low', 'high']]).all(axis=None)
    assert matrix.loc[~numbers, 'value'].isna().all() and (matrix.loc[~numbers, 'note'].str.len() > 20).all()
    assert set(matrix.metric) <= set(metric_registry().metric)
    m = matrix[numbers]
    assert ((m.low <= m.value + 1e-9) & (m.value <= m.high + 1e-9)).all()


# bad input

def spoiled(c, **parts): return replace(c.take(np.arange(len(c))), **parts)


@pytest.fixture(scope='module')
def small(): return (*toy_cohort(160, seed=1).split_by_subject(seed=0), toy_cohort(80, seed=2))


@pytest.mark.filterwarnings('error::RuntimeWarning')
@pytest.mark.parametrize('what', ['constant', 'unmeasured', 'nobody_dies', 'never_flagged', 'one_hour_stays', 'tiny', 'thirty',
                                  'all_unmeasured', 'doubled'])
def test_degenerate_cohorts_give_reasons(small, what):
    train, holdout, synth = small
    k = synth.schema.index('values', 'crea')
    values = synth.values.copy()
    if what == 'constant': values[..., k] = np.where(synth.mask[..., k], 1, np.nan)
    if what == 'unmeasured': values[..., k] = np.nan
    if what == 'all_unmeasured': values[:] = np.nan
    changes = dict(constant=dict(values=values), unmeasured=dict(values=values), all_unmeasured=dict(values=values),
                   nobody_dies=dict(outcome=np.zeros(80, int)),
                   never_flagged=dict(flags=np.zeros_like(synth.flags)),
                   tiny={}, thirty={}, doubled={})[what] if what != 'one_hour_stays' else dict(
                   length=np.ones(80, int), values=np.where((np.arange(24) < 1)[:, None], values, np.nan),
                   flags=synth.flags*(np.arange(24) < 1)[:, None],
                   states=np.where((np.arange(24) < 1)[:, None], synth.states, -1))
    c = spoiled(synth, **changes).validate()
    if what == 'tiny': c = c.take(np.arange(12))
    if what == 'thirty': c = c.take(np.arange(30))
    if what == 'doubled': # the same stays twice, on both sides
        twice = lambda c: replace(c.take(np.tile(np.arange(len(c)//2), 2)), stay_id=np.arange(2*(len(c)//2)))
        train, holdout, c = (twice(k) for k in (train, holdout, c))
    d = evaluate_arms(train, holdout, dict(bad=c), replace(QUICK, n_boot=20, gru_epochs=1), real=False)
    numbers = ~d.note.str.startswith('not estimable')
    assert np.isfinite(d.loc[numbers, ['value', 'low', 'high']]).all(axis=None) and d.loc[~numbers,
                                                                                          'value'].isna().all()
    assert ((d.low <= d.value + 1e-6) & (d.value <= d.high + 1e-6))[numbers].all()
    if what == 'tiny':
        for m in (*NEW, 'c2st_auc_raw'): assert d[d.metric == m].note.str.startswith('not estimable').any(), m
    if what == 'unmeasured': assert (d[d.feature == 'crea'].note.str.startswith('not estimable')).any()
    if what == 'nobody_dies':
        assert 'single outcome class' in d[(d.metric == 'auroc') & (d.group == 'TSTR')].note.iloc[0]
    if what == 'tiny': assert d[d.metric == 'ks'].note.str.contains('underpowered: 12 stays in bad').any()


def test_never_measured_on_both_sides(small):
    train, holdout, synth = small
    k = synth.schema.index('values', 'temp')
    def without(c):
        v = c.values.copy()
        v[..., k] = np.nan
        return spoiled(c, values=v)
    d = evaluate_arms(*(without(c) for c in (train, holdout)), dict(synth=without(synth)),
                      replace(QUICK, n_boot=20, gru_epochs=1), real=False)
    assert (d[(d.feature == 'temp') & (d.metric == 'ks')].note == 'not estimable: never measured').all()


def test_deaths_are_counted(small):
    train, holdout, synth = small
    few = spoiled(holdout, outcome=np.where(np.cumsum(holdout.outcome > 0) <= 7, holdout.outcome, 0))
    d = evaluate_arms(train, few, dict(synth=synth), QUICK, pillars=('utility',), real=False)
    assert d[d.metric != 'event_share'].note.str.startswith('not estimable: only ').all()
    enough = replace(QUICK, enough_deaths=1000)
    d = evaluate_arms(train, holdout, dict(synth=synth), enough, pillars=('utility',), real=False)
    assert d[d.metric == 'auroc'].note.str.contains('underpowered: .* deaths in train').all()


@pytest.mark.parametrize('call', [marginal_scores, joint_scores, temporal_scores, clinical_scores, embedding_scores, subgroup_scores])
def test_schemas_must_agree(call, small):
    with pytest.raises(SynkError, match='different schemas: hours is 24 and 30'): call(small[0],
                                                                                       toy_cohort(40, hours=30))
    s = small[2].schema
    fewer = replace(small[2], schema=replace(s, values=s.values[1:]), values=small[2].values[..., 1:])
    with pytest.raises(SynkError, match="values differ in .'hr'."): call(small[0], fewer)


def test_people_must_not_overlap(small):
    with pytest.raises(SynkError, match='in train and in holdout'): evaluate(small[0], small[0], small[2], QUICK)


def test_discharge_columns_are_refused(small):
    for column in ('los', 'discharge_location', 'dx_sepsis'):
        with pytest.raises(SynkError, match='known only at discharge'): utility_scores(*small, columns=['hr', column])


def test_changing_what_is_known_later_changes_no_prediction(small):
    train, holdout, synth = small
    los = holdout.static.los # of those who left on the first day it says that they are not asked
    table = holdout.static.assign(los=los.where(los < 1, 9.), dx_sepsis=1)
    table['discharge_location'] = 'Home'
    later = spoiled(holdout, static=table)
    a, b = (utility_scores(train, h, synth, models=('logistic',), n_boot=5) for h in (holdout, later))
    pd.testing.assert_frame_equal(a, b)


def test_train_is_never_used_to_scale_the_attack(small):
    train, holdout, synth = small
    grown = spoiled(train, static=train.static.assign(weight=train.static.weight*1.5))
    pick = lambda d: d[(d.metric == 'membership_auc') & (d.feature == 'series')].value.iloc[0]
    assert pick(privacy_scores(train, holdout, synth, n_boot=5)) == pick(privacy_scores(grown, holdout, synth,
                                                                                        n_boot=5))


# statistics, beyond what the notebook shows

def test_ar1_autocorrelation():
    phi, T = 0.6, 400
    rho = within_stay_acf(ar1((200, T), phi, rng(0))[..., None], (1, 2, 3))[:, 0]
    bias = np.array([(1 + phi)/(1 - phi)*(1 - phi**l)/T for l in (1, 2, 3)])
    assert np.abs(rho + bias - phi**np.array([1, 2, 3])).max() < 0.01


def test_null_size_of_the_membership_interval():
    "Scores without information: the interval leaves out 0.5 about once in twenty."
    g, out = rng(3), 0
    for _ in range(200):
        y, s = np.repeat([1, 0], 100), g.standard_normal(200)
        e = stats.cluster_bootstrap(lambda w, y=y, s=s: stats.weighted_auc(y, s, w), np.arange(200), 200, g)
        out += not e.contains(0.5)
    assert sps.binomtest(out, 200, 0.05).pvalue > 0.01


def test_tost_is_valid_at_the_margin():
    g = rng(4)
    reject = np.mean([stats.tost(0.03 + 0.01*g.standard_normal(), 0.01, 0.03) < 0.05 for _ in range(4000)])
    assert 0.035 < reject < 0.065
