"""Training step of each model and generation, as medians, beside the cost that no design can avoid.

    python benchmarks/bench_models.py [--values 100] [--hours 30] [--batch 256] [--stays 10000] [--repeats 7]

Sizes are the paper's (static 64/32; temporal 256 units, T = 30; latent GAN 256/128). The data are random with the right
shapes. Ratios compare with code timed in the same run: the temporal step with its two recurrent layers alone, the GAN's
iteration with five critic passes and one generator pass without any gradient penalty.
"""
import argparse
import statistics
import time

import numpy as np
import pandas as pd
import torch
from torch import nn

from synkmimic.cohort import Cohort
from synkmimic.models.latent_gan import Critic, Generator, LatentGANConfig, critic_loss, generator_loss
from synkmimic.models.samplers import GANSampler, LatentScale
from synkmimic.models.static_vae import StaticVAE, StaticVAEConfig
from synkmimic.models.temporal_vae import TemporalVAE, TemporalVAEConfig
from synkmimic.schema import Feature, Schema
from synkmimic.synthesizer import Synthesizer
from synkmimic.transform import CohortTransform


def random_cohort(n:int, values:int, hours:int, seed:int=0)->Cohort:
    "A cohort of noise with the shape of a registry: 100 numbers an hour, 12 static columns, 40 codes."
    g = np.random.default_rng(seed)
    schema = Schema(source='benchmark', hours=hours,
        static=tuple(Feature(f'n{k}', 'numerical', precision=0.1, role='admission') for k in range(4))
             + tuple(Feature(f'c{k}', 'categorical', levels=tuple('abcde'), role='admission') for k in range(6))
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


def median_ms(run, repeats:int)->float:
    "Median wall time of `run` in milliseconds, after one warm-up."
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter(); run(); times.append(1e3*(time.perf_counter() - start))
    return statistics.median(times)


def step(model:nn.Module, loss):
    "One optimiser step."
    opt = torch.optim.AdamW(model.parameters(), 1e-4)
    def run(): opt.zero_grad(); loss().backward(); opt.step()
    return run


def main()->None:
    parser = argparse.ArgumentParser()
    for name,default in dict(values=100, hours=30, batch=256, stays=10_000, repeats=7).items(): parser.add_argument(f'--{name}', type=int, default=default)
    a = parser.parse_args()
    cohort = random_cohort(a.batch, a.values, a.hours)
    start = time.perf_counter()
    tf = CohortTransform.fit(cohort)
    batch = tf.encode(cohort)
    encode = 1e3*(time.perf_counter() - start)
    batch |= dict(zs_mu=torch.randn(a.batch, 32), zs_logvar=torch.zeros(a.batch, 32))
    static, temporal = StaticVAE(StaticVAEConfig(), cohort.schema), TemporalVAE(TemporalVAEConfig(), cohort.schema, 32)
    cfg, L = LatentGANConfig(), 64
    gen, critic = Generator(cfg, L, 3), Critic(cfg, L, 3)
    z, y = torch.randn(a.batch, L), batch['outcome']
    encoder, decoder = nn.LSTM(128, 128, batch_first=True, bidirectional=True), nn.LSTM(128, 256, batch_first=True)
    x = torch.randn(a.batch, a.hours, 128)
    core = nn.ModuleList([encoder, decoder])

    def gan():
        for _ in range(cfg.critic_steps): critic_loss(critic, gen, z, y)['critic'].backward()
        generator_loss(critic, gen, y).backward()

    def bare():
        for _ in range(cfg.critic_steps): (critic(z, y).mean() - critic(gen.sample(y), y).mean()).backward()
        generator_loss(critic, gen, y).backward()

    rows = [('static VAE step', median_ms(step(static, lambda: static(batch)['total']), a.repeats), None),
            ('temporal VAE step', median_ms(step(temporal, lambda: temporal(batch)['total']), a.repeats),
             median_ms(step(core, lambda: encoder(x)[0].sum() + decoder(x)[0].sum()), a.repeats)),
            ('GAN iteration', median_ms(gan, a.repeats), median_ms(bare, a.repeats))]
    model = Synthesizer.__new__(Synthesizer)
    model.transform_, model.static_vae_, model.temporal_vae_ = tf, static.eval(), temporal.eval()
    model.scale_, model.sampler_ = LatentScale(torch.zeros(L), torch.ones(L)), GANSampler(gen)
    start = time.perf_counter(); model.sample(a.stays)
    rows += [(f'generate {a.stays:,} stays', 1e3*(time.perf_counter() - start), None), (f'fit transform, encode {a.batch} stays', encode, None)]
    print(f'{torch.get_num_threads()} threads, batch {a.batch}, {a.hours} h x {a.values} values, torch {torch.__version__}\n')
    print(f"{'what':<34}{'median ms':>12}{'bare core ms':>14}{'ratio':>8}")
    for name,ms,core_ms in rows:
        print(f'{name:<34}{ms:>12.1f}' + (f'{core_ms:>14.1f}{ms/core_ms:>8.2f}' if core_ms else ''))


if __name__ == '__main__': main()
