"Utility: every score is moved by the control that should move it, no fit sees the test people, and bad input has a reason."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from statsmodels.api import Logit, add_constant
from statsmodels.stats.multitest import multipletests

from synkmimic import classifiers
from synkmimic.classifiers import GRID, Records, SequenceModel, fit_model, people_folds, tuned_options
from synkmimic.core import SynkError, rng
from synkmimic.evaluation import EvaluationConfig, augment_arms, evaluate_arms, metric_registry
from synkmimic.models.controls import CONTROLS
from synkmimic.schema import Feature
from synkmimic.stats import Estimate, estimable, score
from synkmimic.toy import ar1, toy_cohort
from synkmimic.utility import augmentation, prediction
from synkmimic.utility.augmentation import augmentation_scores, unique_stays
from synkmimic.utility.prediction import TASKS, UtilityConfig, calibration, judged, task_outcome, task_records, train_arm, utility_scores

CFG = UtilityConfig(tasks=('death', 'long_stay'), models=('logistic', 'boosting', 'forest'), n_boot=60, bins=5, jobs=1)


@pytest.fixture(scope='module')
def people(): return toy_cohort(1600, seed=0).split_by_subject(seed=0)


@pytest.fixture(scope='module')
def trtr(people): return train_arm(*people, CFG, keep=True)


@pytest.fixture(scope='module')
def arms(people, trtr):
    "Scores of the controls."
    train, holdout = people
    sample = lambda name, seed=0: CONTROLS[name]().fit(train).sample(len(train), seed=seed)
    made = dict(copy=sample('verbatim_copy'), fresh=toy_cohort(len(train), seed=5))
    made |= {f'{n}{k}': sample(n, k) for n in ('label_shuffled', 'independent_marginals') for k in range(3)}
    return {k: utility_scores(train, holdout, c, CFG, trtr=trtr) for k,c in made.items()}


def one(d, metric, feature='boosting', group='TSTR'):
    d = d[(d.metric == metric) & (d.feature == feature) & (d.group == group)]
    assert len(d) == 1, f'{len(d)} rows of {metric} {feature} {group}'
    return d.iloc[0]


def three(arms, name, *what): return [one(arms[f'{name}{k}'], *what) for k in range(3)]


def test_a_copy_is_the_real_arm(arms):
    d = arms['copy']
    for m in ('logistic', 'boosting'): # the stays come in another order: sums and solvers differ in the last digits
        assert one(d, 'auroc', m).value == pytest.approx(one(d, 'auroc', m, 'TRTR').value, abs=1e-3)
        assert one(d, 'auroc_difference', m, 'TSTR-TRTR').note.startswith('equivalent')
        assert one(d, 'equivalence_p_holm', m, 'TSTR-TRTR').value < 0.05
        for k in ('auprc_difference', 'brier_difference', 'auroc_difference_people'): assert abs(one(d, k, m, 'TSTR-TRTR').value) < 1e-3
    assert one(d, 'importance_agreement', 'all', 'TSTR-TRTR').value > 0.999
    assert one(d, 'rank_agreement', 'all', 'TSTR-TRTR').value > 0.3 # the forest draws its stays in another order


@pytest.mark.parametrize('task,far', [('', 0.04), (' task=long_stay', 0.08)])
def test_fresh_people_teach_as_well(arms, task, far):
    "Up to the luck of the training draw, which is larger where there is little to learn."
    d = arms['fresh']
    for m in CFG.models:
        e = one(d, 'auroc_difference', m, 'TSTR-TRTR' + task)
        assert abs(e.value) < far and e.low <= 0.02 and e.high >= -0.02, m
    assert task or one(d, 'calibration_slope', 'logistic').value > 0.6
    assert abs(one(d, 'calibration_intercept', 'logistic', 'TSTR' + task).value) < 0.6


@pytest.mark.parametrize('spoiled', ['label_shuffled', 'independent_marginals'])
def test_spoiled_cohorts_teach_nothing(arms, spoiled):
    "One such model is a random direction, so that the mean of three counts."
    for m in CFG.models:
        assert np.mean([r.value for r in three(arms, spoiled, 'auroc', m)]) < 0.7
        assert np.mean([r.value for r in three(arms, spoiled, 'calibration_slope', m)]) < 0.5
        assert all(r.note.startswith('worse') for r in three(arms, spoiled, 'auroc_difference', m, 'TSTR-TRTR'))
        assert all(r.value > 0.05 for r in three(arms, spoiled, 'equivalence_p_holm', m, 'TSTR-TRTR'))
    fresh = one(arms['fresh'], 'importance_agreement', 'all', 'TSTR-TRTR').value
    assert np.mean([r.value for r in three(arms, spoiled, 'importance_agreement', 'all', 'TSTR-TRTR')]) < fresh - 0.1


def test_ranks_agree_by_pairs():
    a = np.array([[.9, .8, .7]])
    assert [prediction.kendall(a, np.array([b]))[0] for b in ([.6, .5, .4], [.4, .5, .6], [.6, .4, .5])] == pytest.approx([1, -1, 1/3])


def test_the_other_direction(people, trtr):
    "The real models find the dead among fresh people, not among people with exchanged outcomes."
    d = {k: utility_scores(*people, c, CFG, trtr=trtr, trts=True) for k,c in dict(fresh=toy_cohort(500, seed=5),
         shuffled=CONTROLS['label_shuffled']().fit(people[0]).sample(500)).items()}
    assert one(d['fresh'], 'auroc', group='TRTS').value > 0.8 > 0.6 > one(d['shuffled'], 'auroc', group='TRTS').value


def test_every_score_is_registered_and_in_range(arms):
    known = metric_registry().set_index('metric')
    for d in arms.values():
        assert set(d.metric) <= set(known.index) and not d.duplicated(['metric', 'feature', 'group']).any()
        e = estimable(d)
        assert ((e.low <= e.value + 1e-9) & (e.value <= e.high + 1e-9)).all()
        assert ((e.value >= e.metric.map(known.low) - 1e-9) & (e.value <= e.metric.map(known.high) + 1e-9)).all()


# statistics against others

def test_calibration_is_statsmodels_logit():
    g = rng(0)
    l = g.standard_normal(3000)*1.3 - 1.5
    p = np.clip(1/(1 + np.exp(-l)), .002, .998)
    y = g.random(3000) < 1/(1 + np.exp(-(0.4 + 0.7*l)))
    w = prediction.people_weights(y, np.arange(3000), 400, 0)
    slope, intercept = calibration(y, p, w)
    fit = Logit(y.astype(float), add_constant(np.log(p/(1 - p)))).fit(disp=0)
    large = Logit(y.astype(float), np.ones(3000), offset=np.log(p/(1 - p))).fit(disp=0)
    assert (slope[0], intercept[0]) == pytest.approx((fit.params[1], large.params[0]), abs=1e-6)
    assert (slope[1:].std(), intercept[1:].std()) == pytest.approx((fit.bse[1], large.bse[0]), rel=0.15)


def test_calibration_does_not_depend_on_the_block():
    g = rng(1)
    p, y, w = g.uniform(.05, .6, 200), g.random(200) < 0.3, g.integers(0, 3, (7, 200))
    for a,b in zip(calibration(y, p, w), calibration(y, p, w, most=200)): assert a == pytest.approx(b)


def test_holm_over_models_and_tasks_is_multipletests():
    p = [0.001, 0.04, 0.012, 0.2, 0.03]
    rows = [score('equivalence_p', f'm{k}', Estimate(v, v, v, 10), 'TSTR-TRTR') for k,v in enumerate(p)]
    rows += [score('auroc_difference', f'm{k}', Estimate(0.0, -0.01, 0.01, 10), 'TSTR-TRTR') for k in range(5)]
    d = pd.DataFrame(judged(rows, 0.03))
    assert d[d.metric == 'equivalence_p_holm'].value.to_numpy() == pytest.approx(multipletests(p, method='holm')[1])
    assert d[d.metric == 'auroc_difference'].note.str.startswith('equivalent').tolist() == [True, False, True, False, False]


# nothing leaks

def test_who_ended_inside_the_window_is_not_asked():
    c = toy_cohort(400, seed=3, hours=30)
    for task in TASKS:
        kept = task_records(c, task, 8, 2., hours=False)[1]
        steps = 30 if TASKS[task].whole else 8
        assert (c.length[kept] > 8).all() and (c.static.los.to_numpy()[kept]*24 >= steps).all()
    ended = replace(c, length=np.full(400, 8), values=np.where(np.arange(30)[:, None] < 8, c.values, np.nan),
                    flags=c.flags*(np.arange(30) < 8)[:, None], states=np.where((np.arange(30) < 8)[:, None], c.states, -1))
    d = utility_scores(ended, ended, None, UtilityConfig(models=('logistic',)), horizon=8)
    assert set(d.note) == {'not estimable: no stay of the training arm outlasts the window'}


def test_who_has_the_treatment_is_not_asked():
    c = toy_cohort(600, seed=3, hours=30)
    on = np.nan_to_num(c.value('norepinephrine')) > 0
    y, can = task_outcome(c, 'vasopressor', 8, np.inf)
    assert not on[can, 2:8].any() and y[can].any() and (y[can] == on[can, 8:14].any(1)).all()


def test_the_length_of_stay_predicts_nothing(people):
    train, holdout = people
    c = replace(train.schema, static=tuple(replace(f, role='admission') if f.name == 'los' else f for f in train.schema.static))
    assert 'los' not in task_records(replace(train, schema=c), 'long_stay', cut=3.)[0].variable
    assert prediction.long_stay_cut(train) == pytest.approx(np.quantile(train.static.los[prediction.still_there(train, 24)], 0.75))


def test_the_holdout_has_no_say_in_tuning(people):
    train, holdout = people
    other = replace(holdout, values=holdout.values*3 + 1, outcome=rng(0).permutation(holdout.outcome))
    cfg = UtilityConfig(models=('logistic', 'boosting'), tune=True, jobs=1)
    a, b = (train_arm(train, h, cfg, keep=True) for h in (holdout, other))
    test = task_records(holdout)[0]
    for key in a.fits:
        assert a.fits[key].model.options == b.fits[key].model.options in GRID[key[1]]
        assert (a.fits[key].model.predict(test) == b.fits[key].model.predict(test)).all()


def test_tuning_chooses_by_people(monkeypatch):
    "Folds share no person, and the best entry of the grid wins."
    g = rng(0)
    people = np.repeat(np.arange(150), 2)
    x = g.standard_normal((300, 4)).astype('float32')
    d = Records(x, x[:, 0] + 0.5*g.standard_normal(300) > 0, people, ('a', 'b', 'c', 'd'))
    for a,b in people_folds(d, 3, 0): assert not set(people[a]) & set(people[b])
    monkeypatch.setitem(GRID, 'boosting', (dict(max_iter=1, learning_rate=1e-6), dict(max_iter=40)))
    assert tuned_options('boosting', d) == dict(max_iter=40)


# the recurrent model

def test_the_gru_sees_the_order_of_hours():
    "Whether the last hours lie above the first, which neither mean nor range knows."
    g = rng(0)
    def records(n):
        x = ar1((n, 16), 0.3, g)
        y = x[:, 12:].mean(1) > x[:, :4].mean(1)
        x[g.random(x.shape) < 0.2] = np.nan
        return Records(np.zeros((n, 1), 'float32'), y, np.arange(n), ('none',), x[..., None].astype('float32'), 1, 1)
    train, test = records(1000), records(500)
    assert roc_auc_score(test.y, fit_model('gru', train).predict(test)) > 0.85


def test_the_gru_survives_what_is_never_measured():
    n = 80
    hours = np.full((n, 10, 2), np.nan, 'float32')
    hours[..., 0] = 3
    d = Records(np.full((n, 2), np.nan, 'float32'), np.arange(n) % 8 == 0, np.arange(n), ('a', 'b'), hours, 2, 2)
    assert np.isfinite(SequenceModel(epochs=2).fit(d).predict(d)).all()


# cores

def test_the_numbers_do_not_depend_on_the_number_of_jobs(people, monkeypatch):
    train, holdout = people
    for m in (prediction, augmentation): monkeypatch.setattr(m, 'run_all', lambda f, calls, jobs, worth: classifiers.run_all(f, calls, jobs))
    synth = toy_cohort(300, seed=7)
    cfg = UtilityConfig(models=('logistic', 'forest', 'boosting', 'gru'), n_boot=20)
    a, b = (utility_scores(train, holdout, synth, cfg, jobs=j) for j in (1, 2))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    a, b = (augmentation_scores(train, holdout, synth, real=(0.5,), multiples=(1,), n_boot=20, jobs=j) for j in (1, 2))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


# augmentation

def test_fresh_people_help_few_and_shuffled_ones_do_not(people):
    train, holdout = people
    fresh = toy_cohort(800, seed=6)
    shuffled = replace(fresh, outcome=rng(1).permutation(fresh.outcome))
    cfg = augmentation.AugmentationConfig(real=(0.1,), multiples=(8,), models=('forest',), repeats=2, horizon=6, n_boot=60)
    good, bad = (augmentation_scores(train, holdout, c, cfg) for c in (fresh, shuffled))
    gain = lambda d, kind: d[(d.metric == 'augmented_auroc_gain') & d.group.str.endswith(f'kind={kind}')].iloc[0]
    assert gain(good, 'synthetic').value > 0.02 and gain(bad, 'synthetic').high < 0
    for k in ('resampled', 'noisy', 'class_weights'): assert gain(good, 'synthetic').value > gain(good, k).value + 0.01
    assert len(good) == 4*4 + 2 and estimable(good).shape == good.shape


def test_shares_are_nested_and_draws_are_unique(people):
    d = task_records(people[0], hours=False)[0]
    parts = [set(augmentation.real_share(d, s, rng(0))) for s in (0.1, 0.25, 0.5, 1)]
    assert all(a <= b for a,b in zip(parts, parts[1:])) and len(parts[-1]) == len(d)
    pool = task_records(toy_cohort(1200, seed=6), hours=False)[0]
    x = augmentation.training_set('synthetic', 5, d.take(sorted(parts[1])), pool, 0, rng(0)).x
    assert len(np.unique(np.nan_to_num(x, nan=-1), axis=0)) == len(x)


def test_no_stay_is_used_twice(people):
    train, holdout = people
    synth = toy_cohort(100, seed=6)
    twice = synth.take(np.r_[np.arange(100), np.arange(100)])
    with pytest.raises(SynkError, match='100 of 200 synthetic stays are duplicates'): augmentation_scores(train, holdout, twice)
    with pytest.raises(SynkError, match='copies of training stays'): augmentation_scores(train, holdout, train)
    renamed = replace(twice, stay_id=np.arange(200), subject_id=np.arange(200))
    assert (unique_stays(renamed) == np.arange(100)).all()
    few = augmentation_scores(train, holdout, synth, real=(1.,), multiples=(0.1, 1), models=('logistic',), controls=(), n_boot=20)
    short = few[few.group == 'real=1 synth=1 kind=synthetic']
    assert len(short) == 4 and short.note.str.match(r'not estimable: \d+ unique synthetic stays are needed, there are \d+').all()
    assert estimable(few).group.nunique() == 2


def test_a_verbatim_copy_has_nothing_to_add(people):
    cfg = EvaluationConfig(n_boot=20, augment_real=(0.5,), augment_multiples=(1.,), augment_models=('logistic',), jobs=1)
    d = augment_arms(*people, dict(copy=CONTROLS['verbatim_copy']().fit(people[0]).sample(len(people[0]))), cfg)
    assert d[d.group.str.endswith('kind=synthetic')].note.str.startswith('not estimable').all()
    assert d[d.group.str.endswith('kind=resampled')].value.notna().all() and set(d.metric) <= set(metric_registry().metric)


# bad input

@pytest.fixture(scope='module')
def small(): return (*toy_cohort(160, seed=1).split_by_subject(seed=0), toy_cohort(80, seed=2))


def finite_or_said(d):
    bare = d.note.str.startswith('not estimable')
    assert d.loc[bare, 'value'].isna().all() and np.isfinite(d.loc[~bare, ['value', 'low', 'high']]).all(axis=None)
    return d[bare]


def without(c, name):
    keep = [k for k,f in enumerate(c.schema.static) if f.name != name]
    return replace(c, schema=replace(c.schema, static=tuple(c.schema.static[k] for k in keep)), static=c.static.drop(columns=name))


@pytest.mark.filterwarnings('error::RuntimeWarning')
@pytest.mark.parametrize('what', ['nobody_dies', 'everybody_dies', 'tiny', 'unmeasured', 'no_los'])
def test_degenerate_arms_give_reasons(small, what):
    train, holdout, synth = small
    made = dict(nobody_dies=lambda: replace(synth, outcome=np.zeros(80, int)), everybody_dies=lambda: replace(synth, outcome=np.ones(80, int)),
                tiny=lambda: synth.take(np.arange(30)), unmeasured=lambda: replace(synth, values=np.full_like(synth.values, np.nan)), no_los=lambda: synth)[what]()
    if what == 'no_los': train, holdout, made = (without(c, 'los') for c in (train, holdout, made))
    cfg = EvaluationConfig(n_boot=20, jobs=1)
    lost = finite_or_said(evaluate_arms(train, holdout, dict(bad=made), cfg, pillars=('utility',)))
    why = lambda group, metric='auroc', feature='logistic': lost[(lost.group == group) & (lost.metric == metric) & (lost.feature == feature) & (lost.arm == 'bad')].note.tolist()
    if 'dies' in what:
        assert why('TSTR') == ['not estimable: the training arm has a single outcome class']
        assert why('TSTR-TRTR', 'rank_agreement', 'all') == [] and why('TSTR-TRTR', 'auroc_difference') != []
    if what == 'no_los': assert why('TSTR task=long_stay', feature='all') == ['not estimable: no length of stay to measure it by']
    assert why('TSTR task=vasopressor', feature='all') == ['not estimable: the grid ends before 30 h']


def test_a_grid_that_outlasts_most_stays_needs_no_los():
    c = without(toy_cohort(300, seed=0, hours=120), 'los')
    assert prediction.long_stay_cut(c) < 5 or np.isinf(prediction.long_stay_cut(c))
    assert np.isfinite(prediction.long_stay_cut(without(toy_cohort(300, seed=0, hours=200), 'los')))


def test_a_schema_without_treatments_says_so(small):
    s = small[0].schema
    bare = replace(s, values=tuple(replace(f, name='other') if f.name == 'norepinephrine' else f for f in s.values), hours=30)
    assert prediction.why_no_task(bare, 'vasopressor') == 'no vasopressor is charted'
    flagged = replace(bare, flags=(*bare.flags, Feature('mech_vent', 'flag')))
    assert prediction.why_no_task(flagged, 'ventilation') == ''


def test_misspelt_options_are_named(small):
    with pytest.raises(SynkError, match="Did you mean 'death'"): utility_scores(*small, tasks=('deth',))
    with pytest.raises(SynkError, match="Did you mean 'boosting'"): utility_scores(*small, models=('bosting',))
    with pytest.raises(SynkError, match='known only at discharge'): utility_scores(*small, columns=('hr', 'los'), models=('logistic',))
    with pytest.raises(TypeError): utility_scores(*small, task=('death',))
