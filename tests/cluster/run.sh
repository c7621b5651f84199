#!/usr/bin/env bash
# Proof of `make batch EXECUTOR=slurm`: a real Slurm of one node (slurmctld, slurmd, munge from Debian's packages), started by hand in a folder
# of its own, and a small batch of two seeds through it; then the same batch on the local cores, and the two compared without tolerance.
# As root on Debian or Ubuntu: tests/cluster/run.sh > tests/cluster/RESULT.md      An environment made by `make install` is needed.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/cluster.XXXXXX")
chmod 755 "$work"
say() { printf '%s\n' "$*"; }
tell() { printf '%s\n' "$*" >&2; }
pids=()
finish() { [ "$(readlink /etc/slurm/slurm.conf)" != "$work/slurm.conf" ] || rm /etc/slurm/slurm.conf; for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; sleep 1; [ -n "${KEEP:-}" ] || rm -rf "$work"; }
trap finish EXIT

command -v slurmctld slurmd munged squeue >/dev/null || { tell 'installing Slurm'; apt-get update -qq >&2; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >&2; }

tell 'one node'
node=$(hostname -s); cpus=$(nproc); memory=$(awk '/MemTotal/ {print int($2/1024*0.9)}' /proc/meminfo)
mkdir -p "$work"/{munge,state,spool,log}
head -c 1024 /dev/urandom > "$work/munge/key"; chmod 700 "$work/munge"; chmod 400 "$work/munge/key"
munged --force --key-file="$work/munge/key" --socket="$work/munge.socket" --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed"
pids+=("$(cat "$work/munge/pid")")
cat > "$work/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$work/log/jobs.txt
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
MinJobAge=3600
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/ctld.pid
SlurmdPidFile=$work/d.pid
SlurmctldLogFile=$work/log/ctld.log
SlurmdLogFile=$work/log/d.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
[ ! -e /etc/slurm/slurm.conf ] || { tell '/etc/slurm/slurm.conf exists: this machine has a Slurm of its own'; exit 1; }
mkdir -p /etc/slurm && ln -s "$work/slurm.conf" /etc/slurm/slurm.conf # where srun inside a job looks, since the plugin takes SLURM_CONF away
slurmctld -D > "$work/log/ctld.out" 2>&1 & pids+=($!)
slurmd -D -N "$node" > "$work/log/d.out" 2>&1 & pids+=($!)
for _ in $(seq 60); do sinfo -h -o %t 2>/dev/null | grep -q idle && break; sleep 1; done
sinfo -h -o %t | grep -q idle || { tell 'the node did not come up'; tail -20 "$work"/log/*.out "$work"/log/*.log >&2; exit 1; }

tell 'environment: that of the repository; make adds the plugin'
git clone -q "$repo" "$work/clone"
base=$("$repo/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$repo/.venv/bin/python" -m venv "$work/venv"
python=$work/venv/bin/python
echo "$base" > "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
touch "$(make -C "$work/clone" ENV="$work/venv" -n install | sed -n 's/^touch \([^ ]*ready-[^ ]*\).*/\1/p')" # as make leaves it
mkdir "$work/profile" # the profile of the repository, with what this one node has
sed "s/mem_mb=[0-9]*/mem_mb=$((memory/3))/; s/^jobs: .*/jobs: 2/; s/runtime=[0-9]*/runtime=60/; \$a slurm-init-seconds-before-status-checks: 5" "$repo/profiles/slurm/config.yaml" > "$work/profile/config.yaml"
cp "$repo/profiles/slurm/requirements.txt" "$work/profile/"

same() { # two folders: every file the same but for seconds, as tests/kill/run.py reads them
  PYTHONPATH="$work/clone/tests/kill:$work/clone" "$python" - "$1" "$2" <<'END'
import sys
from pathlib import Path
from run import compared
count, same, odd = compared(*map(Path, sys.argv[1:]), without=['manifest.json'])
print(f'{count} files: {len(same)} the same but for seconds, {len(odd)} different, the others byte-identical', *odd, sep='\n  ')
sys.exit(bool(odd))
END
}
batch() { # name of the runs folder, further settings of make
  local runs=$1; shift
  env PYTHONPATH="$work/clone" OMP_NUM_THREADS=1 make --no-print-directory -s -C "$work/clone" ENV="$work/venv" batch PROFILE=smoke SEEDS='0 1' SAMPLERS=gaussian_mixture CORES=1 \
    RUN=cluster OVERRIDES='paper.shadows=0 paper.canaries=0 paper.privacy_controls=[] evaluation.n_boot=10 evaluation.tasks=[death] evaluation.models=[logistic] evaluation.privacy_people=100 evaluation.half_splits=4' RUNS="$work/$runs" "$@"
}
say '# A batch through a real Slurm'
say
say "\`tests/cluster/run.sh\` of commit $(git -C "$repo" rev-parse --short=12 HEAD); $(slurmctld -V), one node of $cpus CPUs, no accounting database; $(grep -h '^snakemake==' "$repo/requirements.lock"), $(paste -sd' ' "$repo/profiles/slurm/requirements.txt")."
say '```'
say "\$ make batch EXECUTOR=slurm PROFILE=smoke SEEDS='0 1' SAMPLERS=gaussian_mixture ...   # in fact with profiles/slurm changed to the memory of this node"
tell 'the batch, by Slurm'
start=$SECONDS
batch slurm EXECUTOR="$work/profile" > "$work/log/batch.txt" 2>&1 & run=$!
most=0; shot=''
while kill -0 $run 2>/dev/null; do
  now=$(squeue -h -t R -o '%i %j %T %M %C' 2>/dev/null | wc -l)
  if [ "$now" -gt "$most" ]; then most=$now; shot=$(squeue -o '%.6i %.9P %.10T %.5M %.4C %.8m %k'); fi
  sleep 2
done
wait $run || { tail -50 "$work/log/batch.txt" "$work"/slurm/*/snakemake.log >&2; exit 1; }
took=$((SECONDS - start))
grep -vE 'epoch|: about|^WARNING: Location' "$work/log/batch.txt" | sed "s#$work#WORK#g"
say
say "\$ squeue   # when most jobs ran: $most"
say "$shot"
say
say '$ scontrol show job   # all jobs of the batch, as slurmctld remembers them'
scontrol -o show job | sed -E 's/.*JobId=([0-9]+) .*JobState=(\S+) .*RunTime=(\S+) .*NodeList=(\S+) .*NumCPUs=([0-9]+).*Comment=(\S+).*/\1 \2 \3 node \4, \5 CPU, \6/' | awk '{print} END {print NR " jobs"}'
say
say '$ cut ... jobs.txt | sort | uniq -c   # the record that Slurm itself writes when a job ends (jobcomp/filetxt)'
grep -o 'JobState=[A-Z]*' "$work/log/jobs.txt" | sort | uniq -c
jobs=$(grep -c 'JobState=COMPLETED' "$work/log/jobs.txt")
ran=$(find "$work/slurm" -path '*/state/*.done' | wc -l)
say "$ran notebooks and manifests finished, $jobs jobs COMPLETED, $took s"
mv "$work/clone/_scratch/figures" "$work/figures-slurm"
tell 'the batch, on the local cores'
start=$SECONDS
batch local > "$work/log/local.txt" 2>&1 || { tail -50 "$work/log/local.txt" >&2; exit 1; }
say
say "\$ make batch ...   # the same without EXECUTOR: $((SECONDS - start)) s; then every number of both, without tolerance"
status=0
for a in "$work"/slurm/*/; do
  name=$(basename "$a"); b=$work/local/$name
  for f in numbers scores; do # what every member and the comparison say
    [ -d "$a/$f" ] || continue
    said=$(same "$a/$f" "$b/$f") || status=1
    say "$name, $f: $said"
  done
done
said=$(same "$work/figures-slurm/smoke-cluster" "$work/clone/_scratch/figures/smoke-cluster") || status=1
say "tables and figures of the comparison: $said"
say
[ "$jobs" -ge "$((ran - 1))" ] || { say 'fewer jobs than notebooks: something ran elsewhere'; status=1; }
[ $status = 0 ] && say 'Passed.' || say 'FAILED.'
say '```'
exit $status
