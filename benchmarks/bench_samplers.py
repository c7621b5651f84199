"""Does the GAN earn its place? Latent samplers side by side on held-out latents.

    python benchmarks/bench_samplers.py [--stays 4000] [--dims 64] [--epochs 100] [--samplers latent_gan flow_matching gaussian_mixture gaussian]
    python benchmarks/bench_samplers.py --train COHORT --holdout COHORT --models FOLDER

The first form makes latents whose truth is known: three outcomes of 80, 12 and 8 %, mixtures and bananas in a rotated,
correlated space, with posteriors of several widths. The second takes the latents of a run: two saved cohorts, and the folder
that holds the stages `transform`, `static_vae` and `temporal_vae` fitted on the first of them.

Each sampler sees the first set only (of it, a tenth of the stays selects the weights) and is judged on the second:
`energy` is the energy distance x 1000, over all stays and over the outcomes (`held_out_quality`); `rare` the same for the
rarest outcome alone; `logistic` and `boosting` are the cross-validated AUROC of classifiers that tell drawn from real latents
(0.5 is best; the logistic one sees values and squares); `spread` is the mean ratio of standard deviations. The row `redrawn`
shows what real people would score: fresh posterior draws of the training stays.
"""
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import nn

from synkmimic.models.flow_matching import FlowMatching, FlowMatchingConfig
from synkmimic.models.latent_gan import Critic, Generator, LatentGANConfig, gan_iteration
from synkmimic.models.samplers import GaussianMixtureConfig, GaussianMixtureSampler, LatentScale, energy_distance, held_out_quality
from synkmimic.models.static_vae import reparameterise
from synkmimic.train import Task, TrainConfig, fit_task, people_split


# ---- latents ------------------------------------------------------------------------------------------------------------------

def toy_latents(n:int, dims:int, seed:int)->dict:
    "Posteriors (n,L) of a space whose truth is known."
    g, world = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor([0.80, 0.12, 0.08]), n, True, generator=g)
    z, k = torch.randn(n, dims, generator=g), dims//4
    group = torch.where(y == 2, 0, torch.randint(0, 4, (n,), generator=g))
    centre, width = 1.5*torch.randn(4, k, generator=world), 0.4 + 0.6*torch.rand(4, k, generator=world)
    z[:, :k] = centre[group] + width[group]*z[:, :k] # a mixture
    z[:, k:2*k] = 0.7*(z[:, 2*k:3*k].square() - 1) + 0.5*z[:, k:2*k] # bananas
    z[:, :k] += 0.5*y[:, None]
    turn = torch.linalg.qr(torch.randn(dims, dims, generator=world))[0]
    width = torch.linspace(0.05, 1, dims)[torch.randperm(dims, generator=world)]
    return dict(mu=z @ (0.5*turn + 0.5*torch.eye(dims)), logvar=(width.log() + 0.3*torch.randn(n, dims, generator=g)), outcome=y)


def run_latents(train, holdout, models)->tuple[dict, dict]:
    "Standardised posteriors of two saved cohorts under the stages of a run."
    from synkmimic.cohort import Cohort
    from synkmimic.synthesizer import load_static_vae, load_temporal_vae, static_posterior, temporal_posterior
    from synkmimic.transform import CohortTransform
    tf, static, temporal = CohortTransform.load(models/'transform'), load_static_vae(models/'static_vae'), load_temporal_vae(models/'temporal_vae')
    def posterior(folder):
        data = tf.encode(Cohort.load(folder))
        data |= static_posterior(static, data)
        mu, logvar = (torch.cat(p, 1) for p in zip((data['zs_mu'], data['zs_logvar']), temporal_posterior(temporal, data)))
        return dict(mu=mu, logvar=logvar, outcome=data['outcome'])
    return posterior(train), posterior(holdout)


def standardised(scale:LatentScale, d:dict)->dict: return dict(mu=scale(d['mu']), logvar=d['logvar'] - 2*scale.std.log(), outcome=d['outcome'])


# ---- samplers -----------------------------------------------------------------------------------------------------------------

class GANTask(Task):
    "The latent GAN on cached posteriors."
    name = 'latent_gan'
    def __init__(self, generator, critic, data, fit, judge):
        super().__init__(nn.ModuleDict(dict(generator=generator, critic=critic)), kept=generator)
        self.data, self.fit, self.real = data, fit, {k: v[judge] for k,v in data.items()}

    def optimizers(self, cfg):
        return [torch.optim.Adam(self.model[k].parameters(), lr=cfg.lr, betas=(0., 0.9), fused=True) for k in ('generator', 'critic')]

    def step(self, fabric, batch, optimizers, cfg):
        gen, critic = self.model['generator'], self.model['critic']
        more = self.fit[torch.randint(len(self.fit), ((gen.cfg.critic_steps - 1)*len(batch['outcome']),))]
        batch = {k: torch.cat([v, self.data[k][more].to(v.device)]) for k,v in batch.items()}
        for group in optimizers[0].param_groups: group['lr'] *= gen.cfg.generator_rate # the loop has just set both rates
        return gan_iteration(gen, critic, reparameterise(batch['mu'], batch['logvar']), batch['outcome'], *optimizers, fabric.backward)

    def quality(self, kept): return held_out_quality(kept.sample, **self.real, n_classes=kept.n_classes)


class FlowTask(Task):
    "Flow matching on cached posteriors."
    name = 'flow_matching'
    def __init__(self, model, data, judge):
        super().__init__(model)
        self.real = {k: v[judge] for k,v in data.items()}

    def step(self, fabric, batch, optimizers, cfg):
        parts = self.model.loss(reparameterise(batch['mu'], batch['logvar']), batch['outcome'])
        optimizers[0].zero_grad(); fabric.backward(parts['total']); optimizers[0].step()
        return parts

    def quality(self, kept): return held_out_quality(kept.sample, **self.real, n_classes=kept.n_classes)


def fitted(kind:str, data:dict, n_classes:int, epochs:int, batch:int, seed:int):
    "The sample function of a fitted sampler."
    size, n = (data['mu'].shape[1], n_classes), len(data['outcome'])
    fit, judge = people_split(np.arange(n), 0.1, seed)
    mine = {k: v[fit] for k,v in data.items()}
    torch.manual_seed(seed)
    if kind == 'gaussian': return GaussianMixtureSampler.fit(**data, n_classes=n_classes, cfg=GaussianMixtureConfig(components=1), seed=seed).sample
    if kind == 'gaussian_mixture': return GaussianMixtureSampler.fit(**data, n_classes=n_classes, seed=seed).sample
    if kind == 'latent_gan':
        task = GANTask(Generator(LatentGANConfig(), *size).start(**mine), Critic(LatentGANConfig(), *size), data, fit, judge)
        cfg = TrainConfig(epochs=epochs, batch_size=batch, lr=5e-4, ema=0.995)
    else:
        task = FlowTask(FlowMatching(FlowMatchingConfig(), *size).start(**mine), data, judge)
        cfg = TrainConfig(epochs=epochs, batch_size=batch, lr=1e-3, ema=0.995)
    with tempfile.TemporaryDirectory() as folder:
        return fit_task(task, data, fit, cfg, folder, seed, progress=lambda line: print('   ', line, flush=True)).sample


# ---- judges -------------------------------------------------------------------------------------------------------------------

def told_apart(model, a, b)->float:
    "Cross-validated AUROC of a classifier between two sets of latents."
    x, label = torch.cat([a, b]).numpy(), np.repeat([0, 1], [len(a), len(b)])
    return roc_auc_score(label, cross_val_predict(model, x, label, cv=StratifiedKFold(2, shuffle=True, random_state=0), method='predict_proba')[:, 1])


def scores(sample, held:dict, n_classes:int)->dict[str, float]:
    "How far draws are from held-out latents."
    y, g = held['outcome'], torch.Generator().manual_seed(1)
    real, fake = held['mu'] + (0.5*held['logvar']).exp()*torch.randn(held['mu'].shape, generator=g), sample(y, g)
    rare = y == torch.bincount(y, minlength=n_classes).argmin()
    squares = lambda z: torch.cat([z, z.square()], 1)
    return dict(energy=1e3*held_out_quality(sample, **held, n_classes=n_classes), rare=1e3*energy_distance(real[rare], fake[rare]),
                logistic=told_apart(LogisticRegression(C=0.05, max_iter=500), squares(real), squares(fake)),
                boosting=told_apart(HistGradientBoostingClassifier(max_iter=60, random_state=0), real, fake),
                spread=float((fake.std(0)/real.std(0)).mean()))


def redrawn(data:dict):
    "A sampler that draws from the posterior of a random training stay with the outcome."
    def sample(y, g):
        at = torch.empty_like(y)
        for k in y.unique():
            own = torch.where(data['outcome'] == k)[0]
            at[y == k] = own[torch.randint(len(own), (int((y == k).sum()),), generator=g)]
        return data['mu'][at] + (0.5*data['logvar'][at]).exp()*torch.randn(data['mu'][at].shape, generator=g)
    return sample


def main()->None:
    parser = argparse.ArgumentParser()
    for name,default in dict(stays=4000, dims=64, epochs=100, batch=128, seed=0, threads=2).items(): parser.add_argument(f'--{name}', type=int, default=default)
    for name in ('train', 'holdout', 'models'): parser.add_argument(f'--{name}', type=Path)
    parser.add_argument('--samplers', nargs='+', default=['gaussian', 'gaussian_mixture', 'flow_matching', 'latent_gan'])
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    data, held = run_latents(a.train, a.holdout, a.models) if a.models else (toy_latents(a.stays, a.dims, 1), toy_latents(a.stays, a.dims, 2))
    scale, n_classes = LatentScale.fit(data['mu'], data['logvar']), int(data['outcome'].max()) + 1
    data, held = standardised(scale, data), standardised(scale, held)
    print(f"{len(data['mu'])} stays, {data['mu'].shape[1]} dimensions, outcomes {torch.bincount(data['outcome']).tolist()}; judged on {len(held['mu'])}")
    for kind in ['redrawn', *a.samplers]:
        start = time.perf_counter()
        sample = redrawn(data) if kind == 'redrawn' else fitted(kind, data, n_classes, a.epochs, a.batch, a.seed)
        took = time.perf_counter() - start
        print(f'{kind:<18}' + ''.join(f'{k} {v:7.3f}  ' for k,v in scores(sample, held, n_classes).items()) + f'{took:6.0f} s', flush=True)


if __name__ == '__main__': main()
