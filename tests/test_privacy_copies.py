"What a committee looks at: planted copies, rare values and patterns are found, fresh real people are not flagged."
from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from synkmimic.core import SynkError, rng
from synkmimic.models.controls import IndependentMarginals, Leak, NoisyCopy, VerbatimCopy
from synkmimic.privacy import copies
from synkmimic.privacy.copies import charted_codes, copies_scores, shared_windows
from synkmimic.toy import toy_cohort

@pytest.fixture(scope='module')
def sides():
    train, holdout = toy_cohort(600, seed=0, hours=30).split_by_subject(seed=0)
    return train, holdout, toy_cohort(300, seed=5, hours=30)

def row(d, metric, feature, group=''):
    return d[(d.metric == metric) & (d.feature == feature) & (d.group == group)].iloc[0]

@pytest.mark.parametrize('steps', [6, 12, 24])
def test_windows_equal_brute_force(sides, steps):
    train, _, fresh = sides
    real, g = charted_codes(train, train)[:25], rng(0, steps)
    synth = charted_codes(fresh, train)[:12].copy()
    for k in range(6): # pieces of real stays at other hours
        i, t, u = g.integers(25), *g.integers(0, 30 - steps + 1, 2)
        synth[k, u:u + steps] = real[i, t:t + steps]
    wa, wb = (sliding_window_view(x, steps, axis=1) for x in (synth, real))
    la, lb = (copies.window_hashes(x, steps)[1] for x in (synth, real))
    same = (wa[:, :, None, None] == wb[None, None]).all(-1) & la[:, :, None, None] & lb[None, None]
    brute = {(s, r, a, b): n for (s, a, r, b),n in np.ndenumerate(same.sum(-1)) if n >= 3}
    found = shared_windows(synth, real, steps)
    assert {(r.synth, r.real, r.synth_start, r.real_start): r.variables for r in found.itertuples()} == brute
    assert len(brute) >= 3

def test_telling_windows(sides):
    "A constant or hardly measured window tells nothing."
    c = np.zeros((1, 6, 3), 'int32')
    c[0, :, 1] = np.arange(6); c[0, 2:, 2] = copies.MISSING; c[0, 0, 2] = 1
    assert copies.window_hashes(c, 6)[1][0, 0].tolist() == [False, True, False]

def test_planted_leaks_are_found(sides):
    train, holdout, fresh = sides
    for share in (0.1, 0.05, 0.02):
        leak = Leak(share, fresh).fit(train).sample(300)
        found = shared_windows(charted_codes(leak, train), charted_codes(train, train), 6)
        assert found.synth.nunique() >= 0.9*share*300
        pairs = copies.nearest_pairs(train, holdout, leak)
        assert (pairs.ratio < 0.01).sum() == round(share*300)
        for p in pairs[pairs.ratio < 0.01].itertuples(): assert np.array_equal(leak.values[p.synth], train.values[p.train], equal_nan=True)

def test_scores_of_controls(sides):
    train, holdout, fresh = sides
    made = dict(copy=VerbatimCopy().fit(train).sample(300), noisy=NoisyCopy().fit(train).sample(300), fresh=fresh,
                marginals=IndependentMarginals().fit(train).sample(300))
    d = {k: copies_scores(train, holdout, c, n_boot=40) for k,c in made.items()}
    for w in ('6 h', '12 h', '24 h'):
        assert row(d['copy'], 'shared_windows', w).value > 0.85 and row(d['copy'], 'shared_windows', w, 'holdout').value == 0
        for k in ('fresh', 'marginals'): assert row(d[k], 'shared_windows', w).value == 0
        assert row(d['noisy'], 'window_ratio', w).high < 0.3 and row(d['noisy'], 'window_share', w).low > 0.95
        e, chance = row(d['fresh'], 'window_ratio', w), row(d['fresh'], 'window_ratio', w, 'labels exchanged')
        assert chance.low - 0.01 < e.value < chance.high + 0.01 and e.low > 0.9
    for k in ('mask', 'counts', 'flags', 'states'):
        assert row(d['noisy'], 'pattern_excess', k).low > 0.2 and row(d['fresh'], 'pattern_excess', k).low <= 0.02

def test_copied_masks_with_new_values(sides):
    "Provenance: values of other people on the masks of training stays."
    train, holdout, fresh = sides
    donor = train.take(rng(0, 'donor').integers(0, len(train), len(fresh)))
    fill = np.nanmean(fresh.values, (0, 1), keepdims=True)*(1 + 0.01*rng(1).standard_normal(fresh.values.shape))
    values = np.where(np.isnan(fresh.values), fill, fresh.values).astype('float32')
    s = replace(fresh, values=np.where(donor.mask, values, np.nan), length=donor.length, flags=fresh.flags & donor.inside[..., None].astype('uint8'),
                states=np.where(donor.inside[..., None], fresh.states, -1)).validate()
    d = copies_scores(train, holdout, s, n_boot=20, windows=(6,))
    assert row(d, 'pattern_excess', 'mask').low > 0.9 and row(d, 'shared_windows', '6 h').value == 0
    assert row(copies_scores(train, holdout, fresh, n_boot=20, windows=(6,)), 'pattern_echo', 'mask').value == 0
    smudged = replace(s, values=np.where(rng(2).random(s.values.shape) < 0.05, np.nan, s.values).astype('float32')) # no mask is equal any more
    near = {k: copies.mask_share(train, holdout, c, 60, rng(0, 'test')) for k,c in dict(smudged=smudged, fresh=fresh).items()}
    assert not copies.pattern_echo(train, smudged)['mask'].any() and near['smudged'][0].low > 0.95
    assert near['fresh'][0].value < near['fresh'][1].high

def test_rare_values_by_people(sides):
    train, _, fresh = sides
    names, low, high = copies.stay_extremes(train)
    below, above = copies.rare_bounds(train)
    people = np.array(train.subject_id)
    for k in range(len(names)):
        assert len(set(people[high[:, k] > above[k]])) < 11 <= len(set(people[high[:, k] >= above[k]]))
        assert len(set(people[low[:, k] < below[k]])) < 11 <= len(set(people[low[:, k] <= below[k]]))
    one = np.zeros(len(train), 'uint8'); one[:10] = 1
    train10 = replace(train, static=train.static.assign(dx_chf=one), subject_id=np.arange(len(train)))
    assert copies.rare_echo(train10, fresh)[0]['levels'].sum() == fresh.static.dx_chf.sum() > 0
    one[10] = 1 # the eleventh person
    train11 = replace(train10, static=train.static.assign(dx_chf=one))
    assert copies.rare_echo(train11, fresh)[0]['levels'].sum() == 0
    same = replace(train11, subject_id=np.r_[0, 0, np.arange(len(train) - 2) + 1]) # eleven stays of ten people
    assert copies.rare_echo(same, fresh)[0]['levels'].sum() == fresh.static.dx_chf.sum()
    copy = VerbatimCopy().fit(train).sample(300)
    for c,more in ((copy, 0), (fresh, 1)):
        hit = copies.rare_echo(train, c)[0]
        assert (hit['extremes'].sum() > hit['same_extremes'].sum()) == more # a copy's extremes are all somebody's
    assert (copies.rare_echo(train10, fresh)[1].train_people == '<11').all() # small counts are not told

def test_common_patterns_are_nobodys(sides):
    train = sides[0]
    quiet = replace(train, flags=np.zeros_like(train.flags), subject_id=np.arange(len(train)))
    assert not copies.pattern_echo(quiet, quiet)['flags'].any() and copies.pattern_echo(quiet, quiet)['mask'].mean() > 0.9

def test_canaries(sides):
    train, _, fresh = sides
    audited, ids = copies.plant_canaries(train, 30, seed=1)
    planted, twins = audited.take(np.isin(audited.stay_id, ids)), copies.make_canaries(train, 300, 1, 'twins')
    assert len(audited) == len(train) + 30 and not set(ids) & set(train.stay_id) and not set(twins.stay_id) & set(ids)
    seen = copies.canary_scores(VerbatimCopy().fit(audited).sample(len(audited)), planted, twins)
    blind = copies.canary_scores(fresh, planted, twins)
    assert row(seen, 'canary_detection', 'canaries').value == 1
    e = row(blind, 'canary_detection', 'canaries')
    assert e.low <= 0.05 <= e.high and row(blind, 'canary_auc', 'canaries').low < 0.5 < row(blind, 'canary_auc', 'canaries').high
    again, _ = copies.plant_canaries(train, 30, seed=1)
    assert again.fingerprint() == audited.fingerprint()

def test_power_of_canaries():
    "The stated rate is found with the stated power, and a smaller one is not."
    from scipy.stats import binom
    for c in (20, 50, 200):
        k, r = copies.detection_power(c)
        assert binom.sf(k - 1, c, 0.05) <= 0.05 < binom.sf(k - 2, c, 0.05) and abs(binom.sf(k - 1, c, r) - 0.8) < 1e-6

def test_bad_input(sides):
    train, holdout, fresh = sides
    with pytest.raises(SynkError, match='people are in train and in holdout'): copies_scores(train, train, fresh)
    with pytest.raises(SynkError, match='different schemas'): copies_scores(train, holdout, toy_cohort(50))
    with pytest.raises(SynkError, match='plant at most'): copies.plant_canaries(train, 10_000)
    with pytest.raises(SynkError, match='ratio or distance'): copies.nearest_pairs(train, holdout, fresh, by='size')
    few = copies_scores(train, holdout, fresh.take(np.arange(4)))
    assert few.note.str.contains('each needs 30').all() and few.value.isna().all()
    empty = replace(fresh, values=np.full_like(fresh.values, np.nan))
    d = copies_scores(train, holdout, empty, n_boot=10, windows=(6,))
    assert 'charted windows' in row(d, 'window_ratio', '6 h').note
