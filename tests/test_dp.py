"Differential privacy of the whole pipeline: sensitivities, noise, one account, and every refusal."
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from opacus.accountants import RDPAccountant
from torch import nn

from synkmimic import dp
from synkmimic.config import compose
from synkmimic.core import ConfigError, DataError, SynkError
from synkmimic.dp import DPConfig, DPSynthesizer, PersonSGD, composed_epsilon, noise_plan, person_sum, privacy_statement, stay_rates
from synkmimic.models.latent_gan import Critic, LatentGANConfig
from synkmimic.models.samplers import GaussianMixtureSampler
from synkmimic.toy import toy_cohort

quiet = lambda line: None
PARTS = ('transform', 'static_vae', 'temporal_vae', 'gaussian_mixture')
OPTIONS = ('profile=smoke', 'dp.epsilon=6', 'dp.steps=[4,4,6]', 'dp.sample_rate=0.1', 'dp.standin=300', 'dp.levels=6', 'model.static_vae.hidden_dim=16',
           'model.static_vae.latent_dim=3', 'model.temporal_vae.hidden_dim=16', 'model.temporal_vae.embed_dim=16', 'model.temporal_vae.latent_dim=3')


def small(*more): return compose([*OPTIONS, 'model.sampler=gaussian_mixture', *more])


@pytest.fixture(scope='module')
def ward(): return toy_cohort(120, seed=0, hours=6)


@pytest.fixture(scope='module')
def run(ward, tmp_path_factory):
    "A finished private run: folder and model."
    folder = tmp_path_factory.mktemp('private')
    return folder, DPSynthesizer(small()).fit(ward, folder, quiet)


# The account

def test_composition_equals_opacus_and_the_closed_form():
    history = [(6., 1., 11), (1.2, 0.05, 40), (0.9, 0.1, 30), (4., 1., 1)]
    account = RDPAccountant()
    for sigma,q,steps in history:
        for _ in range(steps): account.step(noise_multiplier=sigma, sample_rate=q)
    assert composed_epsilon(history, 1e-5) == pytest.approx(account.get_epsilon(1e-5), rel=1e-9)
    a = np.array(RDPAccountant.DEFAULT_ALPHAS)
    rho = 11*a/(2*6.**2) + a/(2*4.**2) # Gaussian releases alone, by the formula
    by_hand = np.min(rho + np.log((a - 1)/a) - (np.log(1e-5) + np.log(a))/(a - 1))
    assert composed_epsilon([(6., 1., 11), (4., 1., 1)], 1e-5) == pytest.approx(by_hand, rel=1e-9)


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise_and_delta():
    e = lambda sigma=1., q=0.05, steps=200, delta=1e-5: composed_epsilon([(sigma, q, steps)], delta)
    assert e(steps=100) < e() < e(steps=400) and e(q=0.02) < e() < e(q=0.1)
    assert e(sigma=2.) < e() < e(sigma=0.8) and e(delta=1e-3) < e() < e(delta=1e-7)


@pytest.mark.parametrize('epsilon', (0.5, 3., 20.))
def test_the_plan_spends_what_was_asked_and_not_more(epsilon):
    releases = ((1., 11), (0.05, 100), (0.05, 200), (1., 1))
    sigma = noise_plan(epsilon, 1e-5, (0.1, 0.2, 0.5, 0.2), releases)
    spent = composed_epsilon([(s, *r) for s,r in zip(sigma, releases)], 1e-5)
    assert 0.95*epsilon < spent <= epsilon
    other = noise_plan(epsilon, 1e-5, (0.4, 0.2, 0.2, 0.2), releases)
    assert other[0] < sigma[0] and other[2] > sigma[2] and other[1] == sigma[1], 'a larger share buys less noise, and the other parts do not matter'


# Sensitivity: the most that one person moves a sum

def person_step(data, who, loss, make, rows=None, sigma=0., clip=1.):
    "Change of a model's weights by one step of size 1."
    torch.manual_seed(3)
    model = make()
    sgd = PersonSGD(model, loss, data, who, torch.optim.SGD(model.parameters(), lr=1.), sigma, DPConfig(max_grad_norm=clip), torch.Generator().manual_seed(0))
    flat = lambda: torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    before = flat()
    sgd.step([s for i,s in enumerate(sgd.stays) if rows is None or i in rows])
    return before - flat()


class Recurrent(nn.Module):
    "What Opacus' own hooks do not know: a recurrent layer behind a masked gather, and a bare parameter."
    def __init__(self):
        super().__init__()
        self.lstm, self.scale = nn.LSTM(2, 4, batch_first=True), nn.Parameter(torch.ones(4))
    def forward(self, b): return ((self.lstm(b['x'])[0][b['inside']]*self.scale).sum(-1) - 1).square().sum()


@pytest.fixture(scope='module')
def sequences():
    g = torch.Generator().manual_seed(0)
    return dict(x=torch.randn(14, 5, 2, generator=g)*3, inside=torch.rand(14, 5, generator=g) < 0.7), np.array(list('aabbbcdefffffg'))


def test_without_noise_and_bound_a_step_is_the_ordinary_gradient(sequences):
    data, who = sequences
    torch.manual_seed(3)
    model = Recurrent()
    model(data).backward()
    plain = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.allclose(person_step(data, who, lambda m, b: m(b), Recurrent, clip=1e9), plain, atol=1e-4*plain.norm().item())
    z, y = torch.randn(14, 3), torch.arange(14) % 2
    make = lambda: Critic(LatentGANConfig(), 3, 2)
    torch.manual_seed(3)
    critic = make()
    critic(z, y).sum().backward()
    plain = torch.cat([p.grad.flatten() for p in critic.parameters()])
    assert torch.allclose(person_step(dict(z=z, y=y), who, lambda m, b: m(b['z'], b['y']).sum(), make, clip=1e9), plain, atol=1e-4)


def test_no_person_moves_the_sum_beyond_the_bound(sequences):
    data, who = sequences
    step = lambda rows=None, clip=0.5: person_step(data, who, lambda m, b: m(b), Recurrent, rows, clip=clip)
    whole = step()
    moved = [(whole - step([i for i in range(7) if i != k])).norm().item() for k in range(7)]
    assert max(moved) <= 0.5 + 1e-4 and max(moved) > 0.4, 'several stays of one person share one bound'
    by_stay = person_step(data, np.arange(14), lambda m, b: m(b), Recurrent, clip=0.5)
    without_f = person_step(data, np.arange(14), lambda m, b: m(b), Recurrent, [i for i in range(14) if who[i] != 'f'], clip=0.5)
    assert (by_stay - without_f).norm() > 0.6, 'clipping stay by stay would not have protected the person with five'


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), clip=st.floats(0.01, 5), scale=st.floats(0.01, 1e4))
def test_clipping_holds_for_any_data(seed, clip, scale):
    g = torch.Generator().manual_seed(seed)
    data, who = dict(x=torch.randn(9, 3, generator=g)*scale), torch.randint(4, (9,), generator=g).numpy()
    step = lambda rows=None: person_step(data, who, lambda m, b: m(b['x']).square().sum(), lambda: nn.Linear(3, 2).double(), rows, clip=clip)
    data['x'] = data['x'].double()
    people = len(set(who))
    gone = int(torch.randint(people, (1,), generator=g))
    assert (step() - step([i for i in range(people) if i != gone])).norm() <= clip*(1 + 1e-6) + 1e-9


def test_rates_and_histograms_are_as_sensitive_as_they_say():
    c = toy_cohort(80, seed=3, hours=6)
    person, people = dp.people_of(c.subject_id)
    assert people < len(c)
    blocks, B = stay_rates(c)
    X = torch.as_tensor(np.concatenate(blocks, 1))
    fine = lambda rows: dp.person_histograms(c.values[rows], dp.people_of(c.subject_id[rows])[0], c.schema.values, 6)
    D, far = len(c.schema.values), 0.
    for k in range(people):
        rows = torch.where(person != k)[0]
        difference = (person_sum(X, person) - person_sum(X[rows], dp.people_of(c.subject_id[rows])[0])).norm()
        assert difference <= B**0.5 + 1e-9
        lost = fine(np.arange(len(c))) - fine(rows.numpy())
        levels = [lost.view(D, 2**j, -1).sum(-1).norm() for j in range(1, 7)]
        assert max(levels) <= D**0.5 + 1e-9 and (lost >= -1e-9).all()
        far = max(far, difference/B**0.5)
    assert far > 0.5, 'the bound is not loose'


def test_moments_are_as_sensitive_as_they_say():
    g = torch.Generator().manual_seed(0)
    mu, logvar, y = torch.randn(30, 4, generator=g)*50, torch.randn(30, 4, generator=g)*3, torch.arange(30) % 3
    person, people = dp.people_of(np.arange(30)//2)
    parts = [torch.nn.functional.one_hot(y).double(), dp._shortened(mu.double(), 2.), dp._shortened(mu.double()**2 + logvar.double().exp(), 4.)]
    lengths = [torch.stack([person_sum(p[person == k], torch.zeros(2, dtype=torch.long)) for k in range(people)]).norm(dim=1) for p in parts]
    assert all((n <= 1 + 1e-9).all() for n in lengths) and max(n.max() for n in lengths) > 0.9
    arrays = dp.noisy_gaussian(mu, logvar, y, np.arange(30)//2, 3, 5., g)
    assert all(torch.isfinite(a).all() for a in arrays.values())
    assert GaussianMixtureSampler(arrays).sample(torch.tensor([0, 1, 2, 2]), g).shape == (4, 4)


# Noise and sampling

def test_noise_has_the_stated_scale():
    g = torch.Generator().manual_seed(0)
    assert dp.add_noise(torch.zeros(100_000, dtype=torch.float64), 3., 0.7, g).std().item() == pytest.approx(2.1, rel=0.02)
    step = person_step(dict(x=torch.zeros(2, 8)), np.arange(2), lambda m, b: m(b['x']).sum(), lambda: nn.Linear(8, 5000), rows=[], sigma=1.3, clip=2.)
    assert step.std().item() == pytest.approx(2.6, rel=0.02), 'an empty batch is noise alone'
    assert abs(step.mean().item()) < 0.05


def test_counts_carry_the_noise_of_their_ledger(monkeypatch, ward):
    seen = []
    honest = dp.add_noise
    monkeypatch.setattr(dp, 'add_noise', lambda total, sensitivity, sigma, g: (seen.append((sensitivity, sigma)), honest(total, sensitivity, sigma, g))[1])
    dp.private_standin(ward, DPConfig(levels=4, standin=50), 3., torch.Generator().manual_seed(0))
    D = len(ward.schema.values) + len(ward.schema.static_of_kind('numerical'))
    assert seen == [(pytest.approx(stay_rates(ward)[1]**0.5), 3.)] + [(pytest.approx(D**0.5), 3.)]*4


def test_each_person_is_drawn_with_all_stays_or_not_at_all():
    who = np.repeat(np.arange(400), 2)
    sgd = PersonSGD(model := nn.Linear(1, 1), None, {}, who, torch.optim.SGD(model.parameters(), lr=1.), 1., DPConfig(sample_rate=0.1), torch.Generator().manual_seed(0))
    draws = [sgd.draw() for _ in range(200)]
    assert np.mean([len(d) for d in draws]) == pytest.approx(40, abs=2) and np.std([len(d) for d in draws]) == pytest.approx(6, abs=1)
    assert all((np.unique(who[torch.cat(d)], return_counts=True)[1] == 2).all() for d in draws if d)


def test_secret_noise_differs_between_runs_of_one_seed_and_known_noise_does_not(ward, tmp_path):
    secret, known = small(), small('dp.secret_noise=false')
    fit = lambda name, cfg: dp.fit_transform(ward, cfg, 0, tmp_path/name).standin.fingerprint()
    assert fit('a', secret) != fit('b', secret)
    assert fit('c', known) == fit('d', known)


# The whole

def test_a_private_run_gives_a_cohort_and_one_epsilon(run, ward):
    folder, model = run
    said, synth = model.privacy_, model.sample(60, seed=1)
    assert 0 < said['epsilon'] <= 6 and said['epsilon'] > 5 and said['unit'] == 'patient' and said['delta'] == 1e-5
    assert [p['part'] for p in said['parts']] == ['transform', 'static_vae', 'temporal_vae', 'sampler']
    assert len(synth.validate()) == 60 and synth.schema == ward.schema and not set(synth.stay_id) & set(ward.stay_id)
    assert said == privacy_statement(*(folder/p for p in PARTS))
    history = [(r['noise_multiplier'], r['sample_rate'], r['steps']) for p in said['parts'] for r in p['releases']]
    assert [h[1:] for h in history] == [(1., 1), (1., 6), (0.1, 4), (0.1, 4), (1., 1)]


@pytest.mark.parametrize('kind', ('latent_gan', 'flow_matching'))
def test_the_other_samplers_are_private_too(run, ward, kind):
    folder, model = run
    cfg = compose([*OPTIONS, f'model.sampler={kind}', 'model.latent_gan.critic_steps=2'])
    parts = [dp.load_transform(folder/'transform'), model.static_vae_, model.temporal_vae_]
    dp.fit_sampler(ward, *parts, cfg, 0, folder/kind, quiet)
    other = DPSynthesizer.from_stages(*(folder/p for p in (*PARTS[:3], kind)))
    assert len(other.sample(10, seed=0)) == 10 and 0 < other.privacy_['epsilon'] <= 6, 'another sampler keeps to the same budget'
    assert [r['what'] for r in other.privacy_['parts'][3]['releases']] == ['moments', 'critic gradients' if kind == 'latent_gan' else 'gradients']
    everything = privacy_statement(*(folder/p for p in (*PARTS, kind)))
    assert everything['epsilon'] > other.privacy_['epsilon'], 'two released samplers cost more than one'


def test_a_sampler_begins_at_noisy_moments_and_not_at_those_of_the_people(run, ward):
    folder, model = run
    cfg = compose([*OPTIONS, 'dp.epsilon=0.5', 'model.sampler=latent_gan', 'model.latent_gan.critic_steps=1000'])
    data = dp.private_latents(ward, dp.load_transform(folder/'transform'), model.static_vae_, model.temporal_vae_)
    made = [dp._private_sampler(ward, data, model.transform_, cfg, 0, quiet, 'latent_gan')[0].generator.moments.mean for _ in range(2)]
    assert not torch.allclose(made[0], made[1]) # secret noise; a mean of the people would be the same twice


@pytest.mark.parametrize('part', PARTS)
def test_an_unaccounted_part_is_named(run, part, tmp_path):
    folder, _ = run
    for p in PARTS: shutil.copytree(folder/p, tmp_path/p)
    (tmp_path/part/'privacy.json').unlink()
    with pytest.raises(SynkError, match=f'{part} has no record'): privacy_statement(*(tmp_path/p for p in PARTS))
    with pytest.raises(SynkError, match='may not be called'): _ = DPSynthesizer.from_stages(*(tmp_path/p for p in PARTS)).privacy_
    kind = 'sampler' if part == 'gaussian_mixture' else part
    with pytest.raises(SynkError, match=f'{kind} is not accounted for'): privacy_statement(*(folder/p for p in PARTS if p != part))


def test_a_record_cannot_be_laid_beside_another_model_or_changed(run, tmp_path):
    folder, _ = run
    for p in PARTS: shutil.copytree(folder/p, tmp_path/p)
    where = [tmp_path/p for p in PARTS]
    record = json.loads((where[1]/'privacy.json').read_text())
    spoil = lambda **new: (where[1]/'privacy.json').write_text(json.dumps(record | new))
    for new,message in ((dict(releases=[record['releases'][0] | dict(noise_multiplier=0.)]), 'without noise'), (dict(secret_noise=False), 'known seed'),
                        (dict(delta=1e-3), 'different dp.delta'), (dict(needs=['feedfeedfeedfeed']), 'not among these'), (dict(made='beefbeefbeefbeef'), 'not the model')):
        spoil(**new)
        with pytest.raises(SynkError, match=message): privacy_statement(*where)
    spoil()
    assert privacy_statement(*where)['epsilon'] > 0
    shutil.rmtree(where[1]/'model')
    shutil.copytree(folder/'temporal_vae'/'model', where[1]/'model')
    with pytest.raises(SynkError, match='static_vae is not the model'): privacy_statement(*where)


def test_a_critic_without_a_record_is_named(run, tmp_path):
    folder, _ = run
    for p in PARTS: shutil.copytree(folder/p, tmp_path/p)
    shutil.copytree(folder/'static_vae'/'model', tmp_path/PARTS[3]/'critic'/'model') # any further model inside a stage
    with pytest.raises(SynkError, match='gaussian_mixture/critic has no record'): privacy_statement(*(tmp_path/p for p in PARTS))
    model = DPSynthesizer.from_stages(*(folder/p for p in PARTS))
    model.critic_ = nn.Linear(1, 1)
    with pytest.raises(SynkError, match='critic was fitted without'): _ = model.privacy_


def test_a_part_trained_on_another_part_is_refused(run, ward, tmp_path):
    folder, model = run
    tf = dp.load_transform(folder/'transform')
    dp.fit_static_vae(ward, tf, small(), 7, tmp_path/'static_vae', quiet)
    with pytest.raises(SynkError, match='temporal_vae was fitted on a part that is not among these'):
        privacy_statement(folder/'transform', tmp_path/'static_vae', folder/'temporal_vae', folder/'gaussian_mixture')


def test_known_noise_may_not_be_called_private(ward):
    model = DPSynthesizer(small('dp.secret_noise=false')).fit(ward, progress=quiet)
    assert len(model.sample(5)) == 5
    with pytest.raises(SynkError, match='known seed'): _ = model.privacy_


def test_what_is_released_holds_no_fact_about_the_people(run, ward, tmp_path):
    _, model = run
    model.save(tmp_path/'released')
    texts = [p.read_text() for p in (tmp_path/'released').rglob('*.json')]
    assert len(texts) >= 8 and not any(ward.fingerprint() in t or 'p0000' in t or 'stay0' in t for t in texts)
    again = DPSynthesizer.load(tmp_path/'released')
    assert again.privacy_ == model.privacy_ and again.sample(9, seed=2).fingerprint() == model.sample(9, seed=2).fingerprint()


def test_no_losses_are_written_or_told(ward, tmp_path):
    told = []
    DPSynthesizer(small()).fit(ward, tmp_path, told.append)
    assert told and not any('loss' in t or 'total' in t or 'quality' in t for t in told)
    assert not list(tmp_path.rglob('history.csv')) and not list(tmp_path.rglob('checkpoint'))


def test_finished_parts_are_kept_interrupted_ones_made_again_and_strange_ones_refused(run, ward, tmp_path):
    folder, model = run
    assert dp.fit_transform(ward, small(), 0, folder/'transform').made == dp.load_transform(folder/'transform').made
    tf = dp.load_transform(folder/'transform')
    (tmp_path/'killed').mkdir()
    shutil.copy(folder/'static_vae'/'privacy.json', tmp_path/'killed') # killed between the record and the model
    dp.fit_static_vae(ward, tf, small(), 0, tmp_path/'killed', quiet)
    assert json.loads((tmp_path/'killed'/'privacy.json').read_text())['made'] == dp.made_in(tmp_path/'killed')
    for c,cfg in ((ward.take(range(100)), small()), (ward, small('dp.epsilon=5'))):
        with pytest.raises(DataError, match='Use another run folder'): dp.fit_static_vae(c, tf, cfg, 0, folder/'static_vae', quiet)


def test_what_was_not_declared_public_is_refused(ward, tmp_path):
    s = ward.schema
    real = dataclasses.replace(ward, schema=dataclasses.replace(s, origin='restricted'))
    with pytest.raises(SynkError, match='dp.public_schema=true'): dp.fit_transform(real, small(), 0, tmp_path/'a')
    unknown = dataclasses.replace(ward, schema=dataclasses.replace(s, values=tuple(dataclasses.replace(f, precision=None) if f.name == 'crea' else f for f in s.values)))
    with pytest.raises(SynkError, match="crea has no public precision.*dp.public_ranges=\\['crea:low:high:step'\\]"): dp.fit_transform(unknown, small(), 0, tmp_path/'b')
    tf = dp.fit_transform(unknown, small("dp.public_ranges=['crea:0:20:0.01']"), 0, tmp_path/'c')
    assert tf.schema.feature('crea').precision == 0.01
    with pytest.raises(ConfigError, match='dp.epsilon is 0'): dp.fit_transform(ward, small('dp.epsilon=0'), 0, tmp_path/'d')


def test_the_transform_learns_from_the_stand_in_alone(run):
    tf = dp.load_transform(run[0]/'transform')
    made = tf.standin
    assert np.allclose(tf.prevalence, np.bincount(made.outcome, minlength=3)/len(made)) and not tf.los_is_length
    assert set(made.subject_id) == {f'standin{k:06d}' for k in range(300)}


@pytest.mark.parametrize('declared', [False, True])
def test_what_is_declared_of_the_length_of_stay_is_not_guessed_from_noise(declared, ward, tmp_path, monkeypatch):
    monkeypatch.setattr('synkmimic.transform._los_agrees', lambda c: not declared) # what a stand-in says by chance, in about three of a hundred
    assert dp.fit_transform(ward, small(f'dp.los_is_length={declared}'), 0, tmp_path/'t').los_is_length is declared


def test_a_configuration_with_a_budget_is_never_fitted_openly(ward, tmp_path):
    "The ordinary first stage refuses; `stages` gives the private ones, and no record critic."
    from synkmimic import synthesizer
    with pytest.raises(SynkError, match='not private'): synthesizer.fit_transform(ward, small(), 0, tmp_path/'t')
    with pytest.raises(SynkError, match='not private'): synthesizer.Synthesizer(small()).fit(ward, tmp_path/'s', quiet)
    private, open_ = dp.stages(small()), dp.stages(small('dp.epsilon=0'))
    assert private.private and private.fit_temporal_vae is dp.fit_temporal_vae and private.fit_critic() is None
    assert not open_.private and open_.fit_temporal_vae is synthesizer.fit_temporal_vae and open_.fit_critic is synthesizer.fit_critic
