"The training loop: several processes equal one, sixteen bits come near thirty-two, an estimate grows with the batch."
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from synkmimic.core import ConfigError, SynkError
from synkmimic.train import Task, TrainConfig, activation_bytes, estimate, fit_task, make_fabric, read_checkpoint

ROOT = Path(__file__).resolve().parents[1]

def points(n=203):
    "A line with noise in the data and none in the model: what two processes compute can be compared digit by digit."
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g)
    return dict(x=x, y=x @ torch.tensor([1., -2., 0.5]) + 0.1*torch.randn(n, generator=g))

class Net(nn.Module):
    "Two layers without noise."
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, b): return dict(total=(self.body(b['x'])[:, 0] - b['y']).square().mean())

class NetTask(Task):
    name = 'net'
    def quality(self, kept): return kept(self.table)['total']

class Two(NetTask):
    "Two modules and two optimisers that take turns, as in the GAN."
    name = 'two'
    def __init__(self, a, b): super().__init__(nn.ModuleDict(dict(a=a, b=b)), kept=a)

    def optimizers(self, cfg): return [torch.optim.Adam(self.model[k].parameters(), lr=cfg.lr) for k in 'ab']

    def step(self, fabric, batch, optimizers, cfg):
        a, b = self.model['a'], self.model['b']
        for _ in range(2): self.update(fabric, b(batch)['total'], b, optimizers[1])
        loss = a(batch)['total'] + (a.body(batch['x']) - b.body(batch['x'])).square().mean()
        self.update(fabric, loss, a, optimizers[0], cfg.grad_clip)
        return dict(a=loss)

class Drifting(NetTask):
    "Moves its weights past `update`."
    name = 'drifting'
    def step(self, fabric, batch, optimizers, cfg):
        parts = self.model(batch)
        optimizers[0].zero_grad(); fabric.backward(parts['total']); optimizers[0].step()
        return parts

class Stopping(NetTask):
    "Fails in the middle of its third epoch."
    def step(self, *args):
        self.steps = getattr(self, 'steps', 0) + 1
        if self.steps == 10: raise SynkError('stopped on purpose')
        return super().step(*args)

def train(folder, devices=1, kind=NetTask, **kw):
    "Train in `folder`; the final model, its history and what was said. 203 stays in batches of 50: parts of 25 and a last batch of 3."
    torch.manual_seed(3)
    cfg = TrainConfig(**dict(epochs=5, batch_size=50, lr=0.02, eval_every=2, ema=0.9, warmup=1, devices=devices) | kw)
    task, said, data = Two(Net(), Net()) if kind is Two else kind(Net()), [], points()
    model = fit_task(task, data, torch.arange(len(data['x'])), cfg, folder, progress=said.append)
    return model.state_dict(), pd.read_csv(Path(folder)/'history.csv'), said

@pytest.mark.parametrize('kind', [NetTask, Two])
def test_two_processes_have_the_losses_and_weights_of_one(kind, tmp_path):
    one, log, said = train(tmp_path/'one', 1, kind)
    two, log2, said2 = train(tmp_path/'two', 2, kind)
    pd.testing.assert_frame_equal(log, log2, rtol=1e-4)
    assert len(said) == len(said2) == 3, 'one process speaks'
    for k in one: assert torch.allclose(one[k], two[k], rtol=1e-3, atol=1e-5), k

def test_two_processes_resume_bit_for_bit(tmp_path):
    straight, *_ = train(tmp_path/'a', 2)
    with pytest.raises(SynkError, match='stopped on purpose'): train(tmp_path/'b', 2, Stopping)
    assert read_checkpoint(tmp_path/'b'/'checkpoint.safetensors')['epoch'] == 1
    resumed, _, said = train(tmp_path/'b', 2)
    assert said[0] == 'net: resumed after epoch 1'
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)

def test_processes_that_drift_apart_are_stopped(tmp_path):
    with pytest.raises(SynkError, match='without Task.update'): train(tmp_path, 2, Drifting, epochs=1)

def test_options_that_cannot_be_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r'train\.net\.precision=16-mixed'): train(tmp_path, precision='16-mixed')
    with pytest.raises(ConfigError, match=r'train\.net\.devices=0'): train(tmp_path, devices=0)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r'train\.net\.accelerator=cuda'): train(tmp_path, accelerator='cuda')

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('precision', ['32-true', 'bf16-mixed'])
def test_a_gpu_gives_the_losses_of_the_cpu_and_resumes(precision, tmp_path):
    _, log, _ = train(tmp_path/'cpu')
    _, log2, _ = train(tmp_path/'gpu', accelerator='cuda', precision=precision)
    pd.testing.assert_frame_equal(log, log2, rtol=1e-3 if precision == '32-true' else 0.1)
    with pytest.raises(SynkError): train(tmp_path/'again', kind=Stopping, accelerator='cuda', precision=precision)
    *_, said = train(tmp_path/'again', accelerator='cuda', precision=precision)
    assert 'resumed' in said[0]

class VAETask(Task):
    def __init__(self, model, name): self.name = name; super().__init__(model)
    def quality(self, kept): return 0.

def vae(name, precision, folder):
    "The static or temporal VAE for three epochs; its losses."
    from synkmimic.models.static_vae import StaticVAE, StaticVAEConfig # here, so that spawned processes need not import it
    from synkmimic.models.temporal_vae import TemporalVAE, TemporalVAEConfig
    from synkmimic.toy import toy_cohort
    from synkmimic.transform import CohortTransform
    ward = toy_cohort(200, seed=0)
    data = CohortTransform.fit(ward).encode(ward)
    torch.manual_seed(0)
    if name == 'static_vae': model = StaticVAE(StaticVAEConfig(hidden_dim=32, latent_dim=4), ward.schema)
    else:
        data |= {k: torch.zeros(200, 4) for k in ('zs_mu', 'zs_logvar')}
        model = TemporalVAE(TemporalVAEConfig(hidden_dim=32, embed_dim=32, latent_dim=4), ward.schema, 4)
    fit_task(VAETask(model.start(data), name), data, torch.arange(200), TrainConfig(epochs=3, batch_size=64, precision=precision), folder, progress=lambda s: None)
    return pd.read_csv(Path(folder)/'history.csv').total

@pytest.mark.parametrize('name', ['static_vae', 'temporal_vae'])
def test_bf16_is_near_float32_on_the_real_models(name, tmp_path):
    full, half = (vae(name, p, tmp_path/p) for p in ('32-true', 'bf16-mixed'))
    assert half.map(math.isfinite).all() and (full != half).any()
    assert ((full - half).abs() < 0.02*full.abs() + 0.2).all(), pd.DataFrame(dict(full=full, half=half))

def test_a_gradient_that_overflows_names_the_option(tmp_path):
    class Steep(NetTask):
        def step(self, fabric, batch, optimizers, cfg):
            loss = (self.model(batch)['total']*1e30).square()
            self.update(fabric, loss, self.model, optimizers[0], cfg.grad_clip)
            return dict(total=loss)
    for precision,advice in (('32-true', 'train.net.lr'), ('bf16-mixed', 'train.net.precision=32-true')):
        with pytest.raises(SynkError, match=advice): train(tmp_path/precision, kind=Steep, precision=precision)

def test_the_estimate_counts_what_a_step_holds():
    "Bytes, not seconds: within a factor of two of what autograd holds at the full batch, and growing with it."
    task, data = NetTask(Net()), points(512)
    task.table, cfg = data, TrainConfig(batch_size=256)
    held = {n: activation_bytes(task, make_fabric(cfg), torch.arange(n), task.optimizers(cfg), cfg) for n in (64, 128, 256)}
    assert held[256] - held[128] == 2*(held[128] - held[64]) > 0
    guess = estimate(task, data, torch.arange(512), cfg)
    assert 0.5 < guess['activations']/held[256] < 2
    assert guess['bytes'] > guess['activations'] + sum(v.nbytes for v in data.values())
    assert estimate(task, data, torch.arange(512), TrainConfig(batch_size=512))['activations'] > 1.8*guess['activations']

def test_an_estimate_changes_no_bit(tmp_path):
    "A fit ends with the same bits, whether it was estimated once or three times before."
    cfg, ends = TrainConfig(epochs=50, batch_size=50, eval_every=25), []
    for k in range(2):
        torch.manual_seed(3)
        task, said = NetTask(Net()), []
        if k: estimate(task, points(), torch.arange(203), cfg); estimate(task, points(), torch.arange(203), cfg)
        ends.append(fit_task(task, points(), torch.arange(203), cfg, tmp_path/str(k), progress=said.append).state_dict())
        assert said[0].startswith('net: about ') and len(said) == 3
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])

WRITER = '''
import sys, torch
sys.path.insert(0, {tests!r})
from test_engine import train
while True: print(train({folder!r}, epochs=400, eval_every=400)[2], flush=True)
'''

def test_killed_while_it_writes_there_is_always_a_whole_checkpoint(tmp_path):
    "Kill -9 at arbitrary moments: what lies there is always readable and the epoch never goes back."
    path, last = tmp_path/'checkpoint.safetensors', 0
    process = subprocess.Popen([sys.executable, '-c', WRITER.format(tests=str(ROOT/'tests'), folder=str(tmp_path))], cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT)), stdout=subprocess.DEVNULL)
    try:
        while not path.exists() and process.poll() is None: time.sleep(0.01)
        for _ in range(50):
            now = read_checkpoint(path)['epoch']
            assert now >= last
            last = now
            time.sleep(0.003)
    finally: process.send_signal(signal.SIGKILL); process.wait()
    at = read_checkpoint(path)['epoch']
    *_, said = train(tmp_path, epochs=400, eval_every=400)
    assert at == 400 or f'resumed after epoch {at}' in said[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoint.safetensors', 'history.csv']
