"Relative F1, identity disclosure, rare attributes and hard rules: by hand, and on cohorts whose answer is known."
import numpy as np
import pandas as pd
import pytest

from synkmimic.core import SynkError
from synkmimic.models.controls import VerbatimCopy
from synkmimic.release.measured import best_limit, disclosure_rows, per_person, relative_f1, release_scores, right_shares, rule_rows, table_row
from synkmimic.release.policy import read_policy
from synkmimic.toy import toy_cohort

@pytest.fixture(scope='module')
def sides(): return toy_cohort(500, seed=0).split_by_subject(seed=0)

@pytest.fixture(scope='module')
def scores(sides):
    arms = dict(ward=toy_cohort(250, seed=7), copy=VerbatimCopy().fit(sides[0], seed=0).sample(250, seed=1))
    return {k: release_scores(*sides, c, 30) for k,c in arms.items()}

def value(d, metric, group=''): return d[(d.metric == metric) & (d.group == group)].iloc[0]

@pytest.mark.parametrize('said, want', [([1, 1, 0, 0, 0], 1), ([1, 1, 1, 1, 1], 0), ([0, 0, 1, 1, 1], (0 - 4/7)/(3/7)), ([1, 0, 0, 0, 0], (2/3 - 4/7)/(3/7))])
def test_relative_f1_by_hand(said, want):
    member = np.array([1, 1, 0, 0, 0], bool) # two of five: naming all gives F1 = 4/7
    assert relative_f1(member, np.array(said, bool), np.ones((1, 5)))[0] == pytest.approx(want)

def test_the_limit_is_chosen_among_the_people_given():
    member = np.array([1, 1, 0, 0, 1, 0], bool)
    s = dict(a=np.array([9., 8, 1, 0, 0, 9]), b=np.zeros(6))
    assert best_limit(member, s, np.array([1, 1, 1, 1, 0, 0], bool)) == ('a', 8.)

def test_shares_by_hand():
    told = right_shares(np.array([1, 1, 2, 3]), np.array([[5, -1], [6, 2], [5, -1], [5, 2]]), np.array([1, 1, 3]), np.array([[5, 2], [6, 0], [7, -1]]))
    assert told.tolist() == [0.5, 1.0, 0, 0] # one of two; the first by its second secret, the second by its first; no match; wrong
    assert per_person(np.array([4, 2]), np.array([2, 4, 4, 9])).tolist() == [2, 1]

def test_a_copy_is_found_and_another_ward_is_not(scores):
    f = {k: value(d, 'membership_relative_f1') for k,d in scores.items()}
    assert f['ward'].value <= 0.2 < 0.5 < f['copy'].low
    risk = {k: (value(d, 'identity_disclosure'), value(d, 'identity_disclosure', 'holdout')) for k,d in scores.items()}
    assert risk['copy'][0].value > risk['copy'][1].high and risk['ward'][0].low < risk['ward'][1].high

def test_a_rare_attribute_in_a_small_cell(sides):
    train, holdout = sides
    marked = train.take(np.arange(len(train)))
    k = np.arange(0, 60, 2) # thirty people older than anybody, each with a rare code
    marked.static.loc[k, 'age'], marked.static['dx_chf'] = 119. , 0
    marked.static.loc[k[:9], 'dx_chf'] = 1
    other = holdout.take(np.arange(len(holdout)))
    other.static['dx_chf'] = 0
    release = marked.take(k[:9]).take(np.tile(np.arange(9), 5)) # the nine alone
    got = {r['group']: r for r in disclosure_rows(marked, other, release, 20, 0) if r['metric'] == 'rare_correct_attributes'}
    assert got['holdout']['value'] == 0 and (got['train']['value'] > 0) == (got['']['value'] > 0)

def test_hard_rules_count_stays(sides):
    c = toy_cohort(100, seed=2)
    assert all(r['value'] == 0 for r in rule_rows(c)) and len(rule_rows(c)) >= 3
    i, name = c.schema.index('values', 'hr'), 'in range'
    c.values[3, :5, i] = c.values[8, 0, i] = 5000.
    broken = {r['feature']: round(r['value']*r['n']) for r in rule_rows(c)}
    assert broken[name] == 2 and sum(broken.values()) == 2
    assert table_row(pd.DataFrame(dict(check=['story', 'hash', 'time'], count=[2, 9, 1])), 1000)['value'] == 0.003

def test_every_metric_of_the_release_is_read_by_an_item_of_the_policy(scores):
    policy = read_policy()
    read = {policy.metrics[i.reads]['metric'] for i in policy.items if i.reads}
    assert set(scores['ward'].metric) <= read

def test_people_on_both_sides_are_refused(sides):
    with pytest.raises(SynkError): release_scores(sides[0], sides[0], toy_cohort(60, seed=1))

def test_too_few_people_are_said_and_not_guessed(sides):
    d = release_scores(sides[0].take(np.arange(12)), sides[1], toy_cohort(60, seed=1), 10)
    few = d[d.metric.isin(['membership_relative_f1', 'identity_disclosure', 'rare_correct_attributes'])]
    assert len(few) == 3 and few.note.str.startswith('not estimable').all() and few.value.isna().all()
