"""How much faster than a plain implementation, and how far from the cost that no design can avoid: medians and ratios.

    python benchmarks/bench_models.py [--values 28 100] [--hours 30] [--batch 256] [--stays 10000] [--repeats 7] [--threads 2]

Sizes are the original's: static VAE 64/32; temporal VAE 256/256, T = 30; latent GAN 256/128 with five critic steps. The data are
random with the right shapes (4 numbers, 8 categories and 40 codes in a static record, 10 flags and a state in an hour).

*Plain* is written out below with the same layers and sizes, in the way of METHODS.md, fault 22: one linear map for each feature
and each mask, losses in Python loops; in each part of a GAN iteration the frozen VAEs decode the fakes, critic steps reach back
into the generator, and the penalty is differentiated twice. *Core* is the model's own recurrent layers alone, one forward
and backward pass and an optimiser's step at the sizes they have. What is compared is timed in turn (A, B, A, B, ...), so that
whatever else the machine does hits both; a ratio is the median of the ratios of neighbours.
"""
import argparse
import statistics
import time

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from synkmimic.cohort import Cohort
from synkmimic.models.latent_gan import Critic, Generator, LatentGANConfig, gan_iteration
from synkmimic.models.samplers import GANSampler, LatentScale
from synkmimic.models.static_vae import StaticVAE, StaticVAEConfig
from synkmimic.models.temporal_vae import TemporalVAE, TemporalVAEConfig
from synkmimic.schema import Feature, Schema
from synkmimic.synthesizer import Synthesizer, static_posterior
from synkmimic.transform import CohortTransform


def random_cohort(n:int, values:int, hours:int, seed:int=0)->Cohort:
    "A cohort of noise with the shape of a registry."
    g = np.random.default_rng(seed)
    schema = Schema(source='benchmark', hours=hours,
        static=tuple(Feature(f'n{k}', 'numerical', precision=0.1, role='admission') for k in range(4))
             + tuple(Feature(f'c{k}', 'categorical', levels=tuple('abcde'), role='admission') for k in range(8))
             + tuple(Feature(f'dx_{k}', 'flag', role='discharge') for k in range(40)),
        values=tuple(Feature(f'v{k}', 'numerical', precision=0.1) for k in range(values)),
        flags=tuple(Feature(f'p{k}', 'flag') for k in range(10)),
        states=(Feature('mode', 'categorical', levels=tuple('abcdefgh')),))
    static = pd.DataFrame({f.name: g.normal(size=n).round(1) if f.kind == 'numerical' else g.choice(list('abcde'), n)
                           if f.kind == 'categorical' else g.integers(0, 2, n) for f in schema.static})
    x = np.where(g.random((n, hours, values)) < 0.3, g.normal(size=(n, hours, values)).round(1), np.nan)
    ids = np.arange(n).astype(str)
    return Cohort(schema, static, x, g.random((n, hours, 10)) < 0.05, g.integers(-1, 8, (n, hours, 1)), np.full(n, hours),
                  g.choice(3, n, p=[0.86, 0.08, 0.06]), ids, ids)


# ---- plain: one linear map per feature and per mask ---------------------------------------------------------------------------

def kl_and_draw(mu, logvar):
    "KL term and a reparameterised draw."
    return 0.5*(mu**2 + logvar.exp() - 1 - logvar).sum(-1).mean(), mu + (0.5*logvar).exp()*torch.randn_like(mu)


class PlainHeads(nn.Module):
    "A linear map for each number, each mask, each flag and each category."
    def __init__(self, hidden:int, numbers:int, flags:int, levels):
        super().__init__()
        heads = lambda sizes: nn.ModuleList(nn.Linear(hidden, k) for k in sizes)
        self.values, self.masks, self.flags, self.categories = heads([1]*numbers), heads([1]*numbers), heads([1]*flags), heads(levels)

    def forward(self, h):
        "Outputs, feature by feature."
        return [[head(h) for head in group] for group in (self.values, self.masks, self.flags, self.categories)]

    def loss(self, h, x, m, flags, codes):
        "Losses, feature by feature: squared error where measured, and cross-entropies."
        values, masks, bits, categories = self(h)
        total = 0.
        for k,(value, mask) in enumerate(zip(values, masks)):
            total = total + (m[..., k]*(value[..., 0] - x[..., k])**2).sum() + F.binary_cross_entropy_with_logits(mask[..., 0], m[..., k], reduction='sum')
        for k,bit in enumerate(bits): total = total + F.binary_cross_entropy_with_logits(bit[..., 0], flags[..., k], reduction='sum')
        for k,logits in enumerate(categories):
            total = total + F.cross_entropy(logits.flatten(0, -2), codes[..., k].flatten().clamp_min(0), reduction='sum')
        return total/len(x)


class PlainStatic(nn.Module):
    "Static VAE, 64/32."
    def __init__(self, numbers:int, flags:int, levels, classes:int, h:int=64, z:int=32):
        super().__init__()
        self.levels, self.classes = levels, classes
        self.encode = nn.Sequential(nn.Linear(2*numbers + flags + sum(levels) + classes, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 2*z))
        self.decode = nn.Sequential(nn.Linear(z + classes, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU())
        self.heads = PlainHeads(h, numbers, flags, levels)

    def forward(self, b):
        "The loss."
        y, m = F.one_hot(b['outcome'], self.classes).float(), b['s_mask'].float()
        one = [F.one_hot(b['s_cat'][:, k].clamp_min(0), n).float() for k,n in enumerate(self.levels)]
        kl, z = kl_and_draw(*self.encode(torch.cat([b['s_mid']*m, m, b['s_flag'], *one, y], -1)).chunk(2, -1))
        return kl + self.heads.loss(self.decode(torch.cat([z, y], -1)), b['s_mid'], m, b['s_flag'], b['s_cat'])


class PlainTemporal(nn.Module):
    "Temporal VAE, 256/256: a bidirectional LSTM reads, an LSTM with hour embeddings writes."
    def __init__(self, numbers:int, flags:int, levels, classes:int, hours:int, h:int=256, z:int=256, e:int=128):
        super().__init__()
        self.classes, self.hours = classes, hours
        self.embed = nn.Linear(2*numbers + flags, e)
        self.reader, self.writer = nn.LSTM(e, h//2, batch_first=True, bidirectional=True), nn.LSTM(e, h, batch_first=True)
        self.latent, self.context, self.hour = nn.Linear(h, 2*z), nn.Linear(z + classes, e), nn.Embedding(hours, e)
        self.heads = PlainHeads(h, numbers, flags, levels)

    def decode(self, z, y):
        "Hidden states of all hours."
        stay = self.context(torch.cat([z, F.one_hot(y, self.classes).float()], -1))
        return self.writer(stay[:, None] + self.hour(torch.arange(self.hours)))[0]

    def forward(self, b):
        "The loss."
        m = b['mask'].float()
        hs, _ = self.reader(self.embed(torch.cat([b['mid']*m, m, b['flags']], -1)))
        kl, z = kl_and_draw(*self.latent(hs.mean(1)).chunk(2, -1))
        return kl + self.heads.loss(self.decode(z, b['outcome']), b['mid'], m, b['flags'], b['states'])


def plain_gan(static:PlainStatic, temporal:PlainTemporal, gen:Generator, critic:nn.Module, real, y, steps:int):
    "An iteration as it should not be: decode in every part, critic steps that reach the generator, a penalty differentiated twice."
    opts = [torch.optim.Adam(m.parameters(), 1e-4, betas=(0., 0.9)) for m in (gen, critic)]
    for m in (static, temporal): m.requires_grad_(False)
    one = F.one_hot(y, gen.n_classes).float()
    score = lambda z: critic(torch.cat([z, one], -1))
    zs = static.encode[-1].out_features//2

    def fakes():
        z = gen.body(torch.cat([gen.noise(len(y)), one], -1))[:, :real.shape[1]]
        static.heads(static.decode(torch.cat([z[:, :zs], one], -1)))
        temporal.heads(temporal.decode(z[:, zs:], y))
        return z

    def run():
        for _ in range(steps):
            z = fakes()
            mix = torch.rand(len(real), 1)
            at = (mix*real + (1 - mix)*z.detach()).requires_grad_()
            slope, = torch.autograd.grad(score(at).sum(), at, create_graph=True)
            opts[1].zero_grad()
            (score(z).mean() - score(real).mean() + 10*(slope.norm(dim=-1) - 1).square().mean()).backward()
            opts[1].step()
        opts[0].zero_grad(); (-score(fakes()).mean()).backward(); opts[0].step()
    return run


# ---- timing -------------------------------------------------------------------------------------------------------------------

def in_turn(runs:dict, repeats:int)->dict[str, list[float]]:
    "Milliseconds of every function, called in turn after a warm-up."
    for run in runs.values(): run()
    times = {k: [] for k in runs}
    for _ in range(repeats):
        for k,run in runs.items():
            start = time.perf_counter(); run(); times[k].append(1e3*(time.perf_counter() - start))
    return times


def ratio(times:dict, above:str, below:str)->float:
    "Median of the ratios of neighbours."
    return statistics.median(a/b for a,b in zip(times[above], times[below]))


def step(model:nn.Module, loss):
    "One optimiser step."
    opt = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    def run(): opt.zero_grad(); loss().backward(); opt.step()
    return run


def recurrent_core(model:nn.Module, batch:int, hours:int):
    "A step of the model's own recurrent layers, fed with noise."
    layers = nn.ModuleList(m for m in model.modules() if isinstance(m, (nn.LSTM, nn.GRU)))
    inputs = [torch.randn(*((batch, hours) if m.batch_first else (hours, batch)), m.input_size) for m in layers]
    return step(layers, lambda: sum(m(x)[0].sum() for m,x in zip(layers, inputs)))


def models(values:int, hours:int, batch:int):
    "A batch, its transform, and both VAEs at the original's sizes."
    cohort = random_cohort(batch, values, hours)
    tf = CohortTransform.fit(cohort)
    static = StaticVAE(StaticVAEConfig(hidden_dim=64, latent_dim=32), cohort.schema)
    temporal = TemporalVAE(TemporalVAEConfig(hidden_dim=256, latent_dim=256), cohort.schema, 32)
    data = tf.encode(cohort)
    return data | static_posterior(static, data), tf, static, temporal


def rows(a, values:int)->list[tuple]: # what, our milliseconds, ratio, its words, target, whether met
    "All measurements at one number of hourly variables."
    data, tf, static, temporal = models(values, a.hours, a.batch)
    s, y, classes = tf.schema, data['outcome'], 3
    levels = [len(f.levels) for f in s.static if f.kind == 'categorical']
    plain_static = PlainStatic(4, 40, levels, classes)
    plain_temporal = PlainTemporal(values, 10, [8], classes, a.hours)
    out, median = [], statistics.median
    def row(what, t, above, below, words, target, least): # `least`: the ratio is to be at least the target
        r = ratio(t, above, below)
        out.append((what, median(t['ours']), r, words, f"{'>=' if least else '<='} {target}", r >= target if least else r <= target))

    if values == a.values[0]:
        t = in_turn(dict(ours=step(static, lambda: static(data)['total']), plain=step(plain_static, lambda: plain_static(data))), a.repeats)
        row('static VAE step', t, 'plain', 'ours', 'plain/ours', 5, True)
    core = recurrent_core(temporal, a.batch, a.hours)
    t = in_turn(dict(ours=step(temporal, lambda: temporal(data)['total']), core=core, plain=step(plain_temporal, lambda: plain_temporal(data))), a.repeats)
    row(f'temporal VAE step, {values} values', t, 'ours', 'core', 'ours/core', 1.5, False)
    row(f'temporal VAE step, {values} values', t, 'plain', 'ours', 'plain/ours', 1, True)
    cfg, L = LatentGANConfig(), 32 + 256
    gen, critic = Generator(cfg, L, classes), Critic(cfg, L, classes)
    z = torch.randn(a.batch*cfg.critic_steps, L)
    opts = [torch.optim.Adam(m.parameters(), 1e-4, betas=(0., 0.9), fused=True) for m in (gen, critic)]
    plain_critic = nn.Sequential(nn.Linear(L + classes, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    t = in_turn(dict(ours=lambda: gan_iteration(gen, critic, z, y.repeat(cfg.critic_steps), *opts),
                     plain=plain_gan(plain_static, plain_temporal, Generator(cfg, L, classes), plain_critic, z[:a.batch], y, cfg.critic_steps)), a.repeats)
    row(f'GAN iteration, {values} values', t, 'plain', 'ours', 'plain/ours', 10, True)
    return out


def generation(a, values:int)->tuple:
    "Seconds for many stays, latents and decoding and back to charted units."
    data, tf, static, temporal = models(values, a.hours, a.batch)
    L = static.cfg.latent_dim + temporal.cfg.latent_dim
    model = Synthesizer.__new__(Synthesizer)
    model.transform_, model.static_vae_, model.temporal_vae_ = tf, static.eval(), temporal.eval()
    model.scale_, model.sampler_ = LatentScale(torch.zeros(L), torch.ones(L)), GANSampler(Generator(LatentGANConfig(), L, 3))
    start = time.perf_counter(); model.sample(a.stays); took = time.perf_counter() - start
    return f'generate {a.stays:,} stays, {values} values', 1e3*took, took, 'seconds', '<= 10', took <= 10


def main()->None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--values', type=int, nargs='+', default=[28, 100])
    for name,default in dict(hours=30, batch=256, stays=10_000, repeats=7, threads=2).items(): parser.add_argument(f'--{name}', type=int, default=default)
    a = parser.parse_args()
    torch.set_num_threads(a.threads); torch.manual_seed(0)
    print(f'{torch.get_num_threads()} threads, batch {a.batch}, {a.hours} h, {a.repeats} repeats, torch {torch.__version__}\n')
    print(f"{'what':<36}{'ours, ms':>12}{'ratio':>9}  {'of':<12}{'target':<9}", flush=True)
    for values in a.values:
        for what,ms,r,words,target,met in rows(a, values): print(f"{what:<36}{ms:>12.1f}{r:>9.2f}  {words:<12}{target:<9}{'met' if met else 'missed'}", flush=True)
    for values in (36, 100):
        what,ms,r,words,target,met = generation(a, values)
        print(f"{what:<36}{ms:>12.0f}{r:>9.2f}  {words:<12}{target:<9}{'met' if met else 'missed'}", flush=True)


if __name__ == '__main__': main()
