# What depends on what, and nothing else. Run by `make paper` and `make sweep`; by hand: snakemake --cores 2 --config run=runs/NAME
# Every rule executes one notebook of nbs/paper/ in a run folder made by `python -m synkmimic.paper` (synkmimic/paper.py); in a sweep,
# which is a folder that names other runs, there is a rule for every notebook of every run, and stages that do not differ are made once.
# A notebook is stale when its key changes: the hash of its code and of the modules below it, chained along NEEDS. The key is part
# of the name of the file that says "done", so staleness survives killed runs and lost Snakemake records. Times do not count.
import sys
from pathlib import Path

from synkmimic.core import digest, read_json
from synkmimic.paper import jobs_of

if 'run' not in config: sys.exit('Snakefile: give --config run=runs/NAME (made by `make paper`).')
RUN = Path(config['run']).resolve()
FIGURES = Path(read_json(RUN/'run.json')['figures'])

NEEDS = dict(
    a0_cohort=[],
    a1_static_vae=['a0_cohort'],
    a2_temporal_vae=['a1_static_vae'],
    a3_latent_gan=['a2_temporal_vae'],
    a3_gaussian_mixture=['a2_temporal_vae'],
    a3_flow_matching=['a2_temporal_vae'],
    a4_generate=['a3_latent_gan', 'a3_gaussian_mixture', 'a3_flow_matching'],
    a5_fidelity=['a4_generate'],
    a6_utility=['a4_generate'],
    a5_draws=['a5_fidelity', 'a6_utility'],
    a7_shadow=['a0_cohort'],
    a7_privacy_model_based=['a4_generate', 'a7_shadow'],
    a7_privacy_model_free=['a4_generate'],
    t1_cohort=['a4_generate'],
    t2_fidelity=['a5_fidelity'],
    t3_utility=['a6_utility'],
    t4_augmentation=['a6_utility'],
    t5_membership=['a7_privacy_model_based'],
    t6_disclosure=['a7_privacy_model_based'],
    t7_pipc=['a7_privacy_model_free'],
    a8_release=['a5_draws', 'a7_privacy_model_based', 'a7_privacy_model_free'],
    t8_dossier=['a8_release'],
    f1_pipeline=['a4_generate'],
    f2_marginals=['a4_generate'],
    f3_correlation=['a4_generate'],
    f4_acf=['a5_fidelity'],
    f5_measurement=['a4_generate'],
    f6_subgroups=['a5_fidelity'],
    s1_metric_audit=[],
    f7_augmentation=['a6_utility'],
    f8_membership_roc=['a7_privacy_model_based'],
    f9_leakage=['a7_privacy_model_based'],
    f10_frontier=['a6_utility', 'a7_privacy_model_based'],
    f11_calibration=['a6_utility'],
    s2_ablation=['a5_fidelity', 'a6_utility', 'a7_privacy_model_based'],
    s3_features=['a5_fidelity'],
    s4_latent_map=['a4_generate'],
    s5_variance=['a5_draws'],
    s6_size_power=[],
    s7_privacy_audit=['a7_privacy_model_based', 'a7_privacy_model_free'],
)
JOBS = jobs_of(RUN, NEEDS) # without the samplers that paper.samplers does not name
OWN = [j for j in JOBS if j.run == RUN]
MADE = str(RUN/'state'/f'manifest.{digest([j.key for j in OWN])}.done') # in the run, not beside the committed figures: a fresh clone has those already

HEAVY = lambda name: name[:2] in ('a1', 'a2', 'a3', 'a6') or 'shadow' in name # get half of the cores, so that another stage can run beside: on two cores the second one makes a training 1.6 times as fast, but a stage of its own twice

rule paper:
    input: MADE

for place, job in enumerate(JOBS, 1):
    rule:
        name: job.name if job.run == RUN else f'{job.name}_{place}'
        input: [str(p) for p in job.inputs]
        output: [str(job.mark), str(job.run/'notebooks'/f'{job.name}.ipynb'), *map(str, job.files())]
        params:
            call=job.command(f'{place}/{len(JOBS)}' + (f' {job.run.name}' if job.run != RUN else '')), # here, since the shell line is read late
        threads: max(1, workflow.cores//2) if HEAVY(job.name) and not job.lender else 1
        priority: 3 if job.name[0] == 'a' else 2 if job.name == 's3_features' else 1 # stages first, everything waits for them; then the item that draws longest
        shell: 'export LOKY_MAX_CPU_COUNT={threads}; exec {params.call}' # the processes of the utility stage

rule manifest:
    input: [str(j.mark) for j in OWN]
    output: MADE, FIGURES/'manifest.json', FIGURES/'numbers.json'
    params:
        call=f'{sys.executable} -m synkmimic.paper manifest --run {RUN} {" ".join(j.name for j in OWN)}',
    shell: '{params.call} && touch {output[0]}'
