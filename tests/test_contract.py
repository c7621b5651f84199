"""One contract for every generator: the controls, the comparator, and our own model with each of its latent samplers."""
import dataclasses

import numpy as np
import pytest
import torch

from synkmimic.cohort import Cohort
from synkmimic.core import SynkError
from synkmimic.models.controls import CONTROLS, Leak
from synkmimic.models.ehr_safe import EHRSafe, EHRSafeConfig
from synkmimic.synthesizer import SAMPLERS as KNOWN, Synthesizer
from synkmimic.toy import toy_cohort

SAMPLERS = list(KNOWN)
OFF_STEP = {'noisy_copy'} # its one fault: a little noise on every number, so off the charting step
SHORT = EHRSafeConfig(latent_dim=16, hidden_dim=32, category_epochs=3, stay_epochs=3, gan_steps=10, gan_dim=32)


class Ours(Synthesizer):
    "The Synthesizer with the stages that its samplers share kept in one folder."
    def __init__(self, sampler, folder):
        super().__init__(overrides=['profile=smoke', f'model.sampler={sampler}'])
        self.folder = folder

    def fit(self, train, seed=0): return super().fit(train, self.folder, progress=lambda s: None)


def generators(folder, innocent):
    "Every generator by name, not fitted."
    return ({k: c for k,c in CONTROLS.items()} | dict(leak=lambda: Leak(0.2, innocent), ehr_safe=lambda: EHRSafe(SHORT)) |
            {f'ours/{k}': lambda k=k: Ours(k, folder) for k in SAMPLERS})


NAMES = [*generators(None, None)]
each = pytest.mark.parametrize('name', NAMES)


@pytest.fixture(scope='module')
def ward(): return toy_cohort(200, seed=0, hours=12)


@pytest.fixture(scope='module')
def fitted(ward, tmp_path_factory):
    "Each generator fitted once, when first asked for."
    made, folder = {}, tmp_path_factory.mktemp('ours')
    def get(name):
        if name not in made: made[name] = generators(folder, toy_cohort(200, seed=9, hours=12))[name]().fit(ward, seed=0)
        return made[name]
    return get


def check_cohort(c, train, n, on_step=True):
    "What every synthetic cohort promises."
    assert isinstance(c, Cohort) and c.validate() is c and len(c) == n and c.schema == train.schema
    assert not set(c.subject_id) & set(train.subject_id) and not set(c.stay_id) & set(train.stay_id), 'a training name'
    assert (c.mask == ~np.isnan(c.values)).all() and not c.mask[~c.inside].any()
    assert not c.flags[~c.inside].any() and (c.states[~c.inside] == -1).all(), 'charted after the end of the stay'
    assert set(c.outcome) <= set(range(len(c.schema.outcomes)))
    names = c.schema.static_of_kind('numerical')
    for f,x in [*zip(c.schema.values, np.moveaxis(c.values, -1, 0)), *((c.schema.feature(k), c.static[k].to_numpy()) for k in names)]:
        x = x[~np.isnan(x)].astype('float64')
        assert ((x >= (f.low or -np.inf) - 1e-5) & (x <= (f.high or np.inf) + 1e-5)).all(), f'{f.name} is out of range'
        if on_step: assert (np.abs(x/f.precision - np.round(x/f.precision)) < 0.02).all(), f'{f.name} is off its charting step'


@each
def test_fit_returns_self_and_leaves_train_alone(name, tmp_path):
    train = toy_cohort(40, seed=3, hours=12)
    model, before, stream = generators(tmp_path, train)[name](), train.fingerprint(), torch.random.get_rng_state()
    assert model.fit(train, seed=0) is model and train.fingerprint() == before
    if name == 'ehr_safe': assert torch.equal(torch.random.get_rng_state(), stream), "the caller's random stream was used"


@each
@pytest.mark.parametrize('n', [1, 37, 200])
def test_sample(name, n, fitted, ward): check_cohort(fitted(name).sample(n, seed=1), ward, n, name not in OFF_STEP)


def test_the_noisy_copy_has_its_fault(fitted, ward):
    with pytest.raises(AssertionError, match='off its charting step'): check_cohort(fitted('noisy_copy').sample(50), ward, 50)


@pytest.mark.parametrize('name', [n for n in NAMES if n != 'leak']) # its innocent part has 200 stays and no more
def test_more_than_there_were_people(name, fitted, ward): check_cohort(fitted(name).sample(450, seed=2), ward, 450, name not in OFF_STEP)


@each
def test_the_seed_decides(name, fitted):
    a, b, c = (fitted(name).sample(60, seed=s).fingerprint() for s in (5, 5, 6))
    assert a == b != c


@each
def test_the_same_fit_gives_the_same_stays(name, fitted, ward, tmp_path):
    again = generators(tmp_path, toy_cohort(200, seed=9, hours=12))[name]().fit(ward, seed=0)
    assert again.sample(30, seed=5).fingerprint() == fitted(name).sample(30, seed=5).fingerprint()


@each
def test_refusals(name, fitted, ward, tmp_path):
    with pytest.raises(SynkError, match='fit'): generators(tmp_path, ward)[name]().sample(3)
    for n in (0, -1):
        with pytest.raises(SynkError): fitted(name).sample(n)


def without(c, *parts):
    "A cohort whose schema lacks these parts."
    schema = dataclasses.replace(c.schema, **{k: () for k in parts})
    return dataclasses.replace(c, schema=schema, **{k: getattr(c, k)[..., :0] for k in parts}).validate()


def bare(c):
    "One static column, and neither flags nor states."
    c = without(c, 'flags', 'states')
    return dataclasses.replace(c, schema=dataclasses.replace(c.schema, static=c.schema.static[2:3])).validate()


def never_measured(c):
    "Lactate is in the schema and in no record."
    values = c.values.copy()
    values[..., c.schema.index('values', 'lact')] = np.nan
    return dataclasses.replace(c, values=values).validate()


ODD = dict(no_flags=lambda c: without(c, 'flags'), no_states=lambda c: without(c, 'states'), bare=bare,
           one_number=lambda c: dataclasses.replace(c, schema=dataclasses.replace(c.schema, static=c.schema.static[:1])).validate(),
           all_survived=lambda c: c.take(c.outcome == 0), never_measured=never_measured, twelve=lambda c: c.take(range(12)))


@pytest.mark.parametrize('kind', ODD)
@each
def test_odd_cohorts(name, kind, tmp_path):
    train = ODD[kind](toy_cohort(60, seed=4, hours=12))
    model = generators(tmp_path, ODD[kind](toy_cohort(80, seed=8, hours=12)))[name]().fit(train, seed=0)
    c = model.sample(10, seed=1)
    check_cohort(c, train, 10, name not in OFF_STEP)
    if kind == 'all_survived': assert (c.outcome == 0).all()
    if kind == 'never_measured': assert np.isnan(c.value('lact')).all()
