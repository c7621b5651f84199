"The audit: questions see the guilty, keep silent about the innocent, and say when they cannot tell."
import numpy as np
import pandas as pd
import pytest

from synkmimic.core import SynkError
from synkmimic.evaluation import EvaluationConfig, metric_registry, privacy_scores
from synkmimic.models.controls import IndependentMarginals, Leak, NoisyCopy, Overfit, VerbatimCopy
from synkmimic.privacy.audit import QUESTIONS, answers, audit, leak_share, soundness
from synkmimic.toy import toy_cohort

CFG = EvaluationConfig(n_boot=60, privacy_people=500, half_splits=100)


pytestmark = pytest.mark.long # the notebook 65_privacy.audit shows the same on a smaller ward


@pytest.fixture(scope='module')
def found():
    train, holdout = toy_cohort(1000, seed=0).split_by_subject(seed=0)
    n, fresh = len(train), toy_cohort(500, seed=7)
    made = dict(verbatim_copy=VerbatimCopy(), noisy_copy=NoisyCopy(), overfit=Overfit(), independent_marginals=IndependentMarginals(), **{f'leak_{s}': Leak(s, fresh) for s in (0.1, 0.05)})
    return audit(train, holdout, dict(release=fresh), {k: c.fit(train).sample(min(n, len(fresh)) if k.startswith('leak') else n) for k,c in made.items()}, CFG)


def said(found, question, arm): return found.answers.set_index(['question', 'arm']).sees[(question, arm)]


def test_every_question_sees_the_verbatim_copy(found):
    asked = set(found.answers.question)
    assert {said(found, q, 'verbatim_copy') for q in asked} == {'yes'} and len(asked) >= 14

def test_the_innocent_raise_no_alarm_beyond_their_level(found):
    "Questions share people, so a few false alarms may come together; a level of 1 % over some 45 cells."
    cells = found.answers[found.answers.arm.isin(['real', 'release'])]
    assert (cells.sees == 'yes').sum() <= 2, cells[cells.sees == 'yes'].to_string()

@pytest.mark.parametrize('arm, least', [('noisy_copy', 10), ('overfit', 7), ('leak_0.1', 6), ('leak_0.05', 4)])
def test_the_guilty_are_seen(found, arm, least):
    assert (found.answers[found.answers.arm == arm].sees == 'yes').sum() >= least

def test_the_small_leak_is_seen_where_the_power_says_so(found):
    power = found.scores[(found.scores.arm == 'leak_0.05') & (found.scores.metric == 'smallest_leak') & (found.scores.group == '')].value.iloc[0]
    assert power < 0.05 and said(found, 'membership: tail test', 'leak_0.05') == 'yes'

def test_a_statement_names_what_is_not_sound(found):
    text = found.statement()
    assert 'no proof of safety' in text and 'smallest leak' in text
    blind = found.scores.assign(value=found.scores.value.where(found.scores.metric != 'linkability_risk', -0.1), low=found.scores.low.where(found.scores.metric != 'linkability_risk', -0.2),
                                high=found.scores.high.where(found.scores.metric != 'linkability_risk', 0.))
    table = soundness(answers(blind)).set_index('question')
    assert not table.sound['linkability'] and table.sound['re-identification']

def test_the_shares_of_leaks_are_read_from_the_names():
    assert leak_share('leak_0.05') == 0.05 and leak_share('verbatim_copy') == 1 and np.isnan(leak_share('latent_gan'))

def test_what_was_not_asked_is_not_silence(found):
    told = answers(found.scores[found.scores.metric != 'membership_auc'])
    assert 'membership: best attack, AUC' not in set(told.question)
    gone = found.scores.copy()
    gone.loc[(gone.arm == 'release') & (gone.metric == 'reidentification_excess'), ['value', 'low', 'high', 'note']] = [np.nan, np.nan, np.nan, 'not estimable: too few']
    assert answers(gone).set_index(['question', 'arm']).sees[('re-identification', 'release')] == 'cannot tell'

def test_an_audit_needs_its_alarm(found):
    train = toy_cohort(60, seed=0)
    with pytest.raises(SynkError, match='verbatim_copy'): audit(train, train, dict(a=train), {})
    with pytest.raises(SynkError, match="'real'"): audit(train, train, dict(real=train), dict(verbatim_copy=train))

def test_every_privacy_metric_is_in_the_registry(found):
    registry = metric_registry()
    assert set(found.scores.metric) <= set(registry.metric[registry.pillar == 'privacy'])
    known = registry.set_index('metric')
    d = found.scores.dropna(subset=['value'])
    low, high = known.low.reindex(d.metric).to_numpy(), known.high.reindex(d.metric).to_numpy()
    assert ((d.value >= low - 1e-9) & (d.value <= high + 1e-9)).all()
    assert len({q.name for q in QUESTIONS}) == len(QUESTIONS)

def test_unknown_parts_are_named():
    c = toy_cohort(80, seed=0).split_by_subject(seed=0)
    with pytest.raises(SynkError, match="'membership'"): privacy_scores(*c, c[0], EvaluationConfig(privacy_parts=('membershp',)))
    assert isinstance(privacy_scores(*c, c[0], EvaluationConfig(privacy_parts=('copies',), n_boot=10)), pd.DataFrame)
