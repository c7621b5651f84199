"Attribute inference, re-identification and the disclosure attacks: planted leaks are seen, strangers are not, bad input has a reason."
import json

import numpy as np
import pandas as pd
import pytest

from synkmimic.cohort import concat
from synkmimic.core import SynkError, rng
from synkmimic.models.controls import CONTROLS, rename
from synkmimic.privacy import attribute, disclosure
from synkmimic.privacy.attribute import attribute_scores, default_secrets, gower_codes, knowledge, nearest_records, one_stay_each, stay_frame
from synkmimic.privacy.disclosure import (Attack, attack_rows, coded, disclosure_frame, disclosure_rows, disclosure_scores, fits,
                                          multivariate, residual_risk, size_correction, univariate, wilson_centre)
from synkmimic.stats import estimable, not_estimable
from synkmimic.toy import toy_cohort

SECRETS = ['outcome', 'admission_type']
QUICK = dict(secrets=['outcome'], max_attacks=80)


@pytest.fixture(scope='module')
def people(): return toy_cohort(800, seed=0).split_by_subject(seed=0)


@pytest.fixture(scope='module')
def releases(people):
    train, _ = people
    made = {k: CONTROLS[n]().fit(train).sample(400, seed=1) for k,n in dict(copy='verbatim_copy', noisy='noisy_copy', marginals='independent_marginals').items()}
    fresh = toy_cohort(400, seed=5)
    return made | dict(fresh=fresh, leak=rename(concat([train.take(np.arange(40)), fresh.take(np.arange(360))])))


@pytest.fixture(scope='module')
def attributes(people, releases): return {k: attribute_scores(*people, c, secrets=SECRETS, attacks=('nearest', 'confident'), n_boot=100) for k,c in releases.items()}


@pytest.fixture(scope='module')
def disclosures(people, releases): return {k: disclosure_scores(*people, c, secrets=['outcome', 'los'], max_attacks=300) for k,c in releases.items()}


def one(d, metric, feature, group=''):
    d = d[(d.metric == metric) & (d.feature == feature) & (d.group == group)]
    assert len(d) == 1, f'{len(d)} rows of {metric} {feature} {group}'
    return d.iloc[0]


@pytest.mark.parametrize('group', ['nearest, static', 'nearest, summary', 'confident, static'])
def test_a_copy_gives_every_secret_away_and_strangers_none(attributes, group):
    assert one(attributes['copy'], 'attribute_risk', 'all', group).value > 0.95
    assert one(attributes['noisy'], 'attribute_risk', 'all', group).low > 0.5
    for k in ('fresh', 'marginals'):
        e = one(attributes[k], 'attribute_excess', 'all', group)
        assert e.low <= 0 <= e.high, (k, e.value)


def test_the_confident_attacker_sees_one_copy_in_ten(attributes):
    wide, sharp = (one(attributes['leak'], 'attribute_risk', 'all', f'{a}, static') for a in ('nearest', 'confident'))
    assert sharp.low > 0.4 > wide.value
    assert one(attributes['leak'], 'correct_attribution', 'outcome', 'confident, static, train').n == np.ceil(0.1*358)


def test_the_forest_remembers_a_copy(people, releases):
    d = attribute_scores(*people, releases['copy'], secrets=['outcome'], attacks=('forest',), levels=('static',), n_boot=20)
    assert one(d, 'attribute_risk', 'outcome', 'forest, static').value > 0.9


def test_reidentification(attributes):
    e = {k: one(d, 'reidentification_excess', 'static and temporal') for k,d in attributes.items()}
    assert e['copy'].value > 0.95 and e['noisy'].value > 0.9 and e['leak'].low > 0.04
    for k in ('fresh', 'marginals'): assert e[k].low <= 0 <= e[k].high


def test_every_disclosure_attack_sees_a_copy_and_no_stranger(disclosures):
    risk = {k: d[d.metric.str.endswith('_risk')] for k,d in disclosures.items()}
    assert (risk['copy'].low > 0.7).all() and len(risk['copy']) == 7
    clear = {k: ((d.low <= 0) & (d.high >= 0)).mean() for k,d in risk.items()}
    assert clear['fresh'] > 0.8 and clear['marginals'] > 0.8
    assert one(disclosures['leak'], 'linkability_risk', 'k=1').low > 0


def test_an_attack_that_is_no_better_than_guessing_is_marked(disclosures):
    d = disclosures['marginals']
    weak = d[d.metric.str.endswith('_risk') & d.note.str.contains('does not beat its baseline')]
    for r in weak.itertuples():
        rate = lambda side, r=r: one(d, r.metric.replace('_risk', '_rate'), r.feature, side)
        assert rate('train').low <= rate('baseline').value
    assert len(weak) and not disclosures['copy'].note.str.contains('does not beat').any()


def test_equal_seeds_equal_scores_and_the_order_of_the_release_does_not_matter_for_links(people, releases):
    a, b = (disclosure_scores(*people, releases['fresh'], **QUICK, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(a, b)
    x, y = (attribute_scores(*people, releases['fresh'], secrets=['outcome'], levels=('static',), n_boot=20, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(x, y)
    frames = [disclosure_frame(c) for c in (*people, releases['fresh'])]
    order = rng(0).permutation(400)
    sets = disclosure.default_sets(frames[0])
    one, two = (disclosure.linkability(r, frames[:2], sets, (1,))[1] for r in (frames[2], frames[2].iloc[order].reset_index(drop=True)))
    assert abs(one.main - two.main) <= 2 # ties apart


def test_a_mixed_distance_is_gowers():
    g = rng(1)
    def frame(n):
        x = g.standard_normal(n).round(1)
        return pd.DataFrame(dict(a=np.where(g.random(n) < 0.2, np.nan, x), b=g.choice(['x', 'y', 'z'], n), c=g.random(n) < 0.5, d=7.))
    p, q = frame(30), frame(20)
    width = np.nanmax(np.r_[p.a, q.a]) - np.nanmin(np.r_[p.a, q.a])
    def distance(r, s):
        gone = np.isnan(r.a), np.isnan(s.a)
        number = 0 if all(gone) else 1 if any(gone) else abs(r.a - s.a)/width
        return number + (r.b != s.b) + (r.c != s.c)
    slow = np.array([[distance(r, s) for r in p.itertuples()] for s in q.itertuples()])
    x, y = gower_codes([p, q]).frames
    np.testing.assert_allclose(nearest_records(x, y, 5)[0], np.sort(slow, 1)[:, :5], atol=1e-5)


def test_predicates_single_out_and_are_drawn_from_the_release(people):
    frames = [disclosure_frame(c) for c in people]
    x = coded(frames)
    number = np.array([attribute.is_number(frames[0][c]) for c in frames[0]])
    for p in (univariate(x[0], number, 200, rng(0)), multivariate(x[0], number, 200, 4, rng(0))):
        assert len(p) == 200 and (fits(x[0], p) == 1).all()
        d = frames[0]
        for q in range(0, 200, 40): # against pandas
            ok = pd.Series(True, index=d.index)
            for j in range(p.column.shape[1]):
                v = pd.Series(x[0][:, p.column[q, j]])
                ok &= v.isna() if p.missing[q, j] else v.between(p.low[q, j], p.high[q, j])
            assert ok.sum() == 1


def test_the_size_correction_goes_the_right_way():
    g = rng(4)
    p = multivariate(g.standard_normal((900, 5)), np.ones(5, bool), 500, 3, g)
    singles = lambda n: np.mean([(fits(g.standard_normal((n, 5)), p) == 1).sum() for _ in range(8)])
    found = [size_correction(fits(g.standard_normal((300, 5)), p), 300, 900) for _ in range(8)]
    assert singles(900)/singles(300) > 1.3 and np.mean(found) == pytest.approx(singles(900)/singles(300), rel=0.15)
    assert size_correction(fits(g.standard_normal((300, 5)), p), 300, 300) == 1


def test_the_risk_by_hand_and_its_coverage():
    assert residual_risk((0.6, 0.1), (0.2, 0.05), 9).value == pytest.approx(0.5)
    assert residual_risk((0.6, 0.1), (0.2, 0.05), 9).low == pytest.approx(0.5 - np.hypot(0.1/0.8, 0.4*0.05/0.64))
    g, held = rng(5), 0
    for k1,k0 in zip(g.binomial(300, 0.5, 400), g.binomial(300, 0.2, 400)):
        held += residual_risk(wilson_centre(k1, 300), wilson_centre(k0, 300), 300).contains(0.375)
    assert held/400 > 0.92


def test_people_are_attacked_once(people):
    train, _ = people
    at = one_stay_each(train.subject_id, 10_000, rng(0))
    assert len(set(train.subject_id[at])) == len(at) == len(set(train.subject_id)) < len(train)
    assert len(one_stay_each(train.subject_id, 7, rng(0))) == 7


def test_no_column_of_the_secret_is_known(people, releases):
    "With the secret's own hours in what is known, every guess would be right."
    d = attribute_scores(*people, releases['fresh'], secrets=['vent_mode', 'norepinephrine'], attacks=('nearest',), n_boot=20)
    rates = d[(d.metric == 'correct_attribution') & d.group.str.contains('summary')]
    assert rates.value.max() < 0.95
    assert 'vent_mode:none' in knowledge(people[0], 'summary')


def test_defaults_cover_the_schema(people):
    s = people[0].schema
    assert default_secrets(s)[0] == 'outcome' and 'vent_mode' in default_secrets(s) and 'sex' not in default_secrets(s)
    assert default_secrets(s, most=2) == ['outcome', 'norepinephrine']
    assert not stay_frame(people[0]).columns.duplicated().any()


@pytest.mark.parametrize('options, words', [
    (dict(known=['agge']), "Did you mean 'age'"), (dict(known=[]), 'knows nothing'), (dict(secrets=['outcom']), "Did you mean 'outcome'"),
    (dict(secrets=['age']), 'It is a number'), (dict(attacks=('neares',)), "Did you mean 'nearest'"), (dict(levels=('statik',)), "Did you mean 'static'")])
def test_bad_options_of_attribute_inference(people, releases, options, words):
    with pytest.raises(SynkError, match=words): attribute_scores(*people, releases['fresh'], **dict(secrets=['outcome'], n_boot=10) | options)


@pytest.mark.parametrize('options, words', [
    (dict(known=['wieght']), "Did you mean 'weight'"), (dict(secrets=['loss']), "Did you mean 'los'"),
    (dict(sets=(['age'], ['age', 'hr'])), '1 columns are in both sets'), (dict(sets=([], ['hr'])), 'is empty')])
def test_bad_options_of_the_disclosure_attacks(people, releases, options, words):
    with pytest.raises(SynkError, match=words): disclosure_scores(*people, releases['fresh'], **QUICK | options)


@pytest.mark.parametrize('scores', [attribute_scores, disclosure_scores])
def test_what_is_refused(people, releases, scores):
    train, holdout = people
    with pytest.raises(SynkError, match='people are in train and in holdout'): scores(train, train, releases['fresh'])
    with pytest.raises(SynkError, match='different schemas'): scores(train, holdout, toy_cohort(50, hours=30))
    d = scores(train, holdout.take(np.arange(12)), releases['fresh'])
    assert not len(estimable(d)) and d.note.str.contains('each needs 30').all()


def test_what_cannot_be_said_has_a_reason(people, releases):
    alive = [c.take(c.outcome == 0) for c in (*people, releases['fresh'])]
    d = attribute_scores(*alive, secrets=['outcome'], levels=('static',), n_boot=10)
    assert set(not_estimable(d).feature) == {'outcome', 'all'} and one(d, 'reidentification', 'static and temporal', 'train').n > 0
    e = disclosure_scores(*alive, **QUICK)
    assert not_estimable(e).note.tolist() == [f'not estimable: outcome takes one value among {len(set(alive[0].subject_id))} train records'] or \
        'takes one value' in not_estimable(e).note.iloc[0]
    few = disclosure_scores(*people, releases['fresh'].take(np.arange(30)), neighbours=(1, 40), **QUICK)
    assert '40 neighbours were asked for' in one(few, 'linkability_risk', 'k=1').note
    sure = attack_rows('inference', 'outcome', Attack(50, 50, 1, (50, 50, 50)))
    assert sure[0]['note'] == 'not estimable: every attack on holdout people succeeds'


def test_any_frames_will_do_but_not_identifiers():
    g = rng(6)
    frames = [pd.DataFrame(dict(age=g.integers(20, 90, 120).astype(float), town=g.choice(list('abc'), 120), ill=g.random(120) < 0.4)) for _ in range(3)]
    rows = disclosure_rows(*frames, ['ill'], ['age', 'town'], max_attacks=50)
    assert {r['metric'] for r in rows} == set(disclosure.DIRECTIONS)
    named = [d.assign(mrn=[f'{k}-{i}' for i in range(120)]) for k,d in enumerate(frames)]
    with pytest.raises(SynkError, match='identifiers, not quasi-identifiers'): disclosure_rows(*named, ['ill'], ['mrn'], max_attacks=50)
    constant = [d.assign(town='a') for d in frames]
    rows = disclosure_rows(*constant, ['ill'], ['town'], max_attacks=50)
    assert next(r for r in rows if r['metric'] == 'inference_risk')['note'].startswith('not estimable: the known columns')


def test_the_scores_are_tidy(attributes, disclosures):
    for module,found in ((attribute, attributes), (disclosure, disclosures)):
        for d in found.values():
            assert set(d.metric) <= set(module.DIRECTIONS) and (d.pillar == 'privacy').all()
            assert not d.duplicated(['metric', 'feature', 'group']).any()
            ok = estimable(d)
            assert (ok.low <= ok.value + 1e-9).all() and (ok.value <= ok.high + 1e-9).all()
            json.loads(d.to_json())
