#!/usr/bin/env bash
# Proof of the offline install: wheels are collected with a network; then a fresh clone, an empty HOME and a network namespace with
# nothing in it: make install OFFLINE=1, make paper OFFLINE=1. Linux, as root or with user namespaces. Usage: tests/offline/run.sh [PYTHON]
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
python=${1:-python3.11}
work=$(mktemp -d "${TMPDIR:-/tmp}/offline.XXXXXX")
trap '[ -n "${KEEP:-}" ] || rm -rf "$work"' EXIT
say() { printf '%s\n' "$*"; }
timed() { local start=$SECONDS; "$@"; say "    took $((SECONDS - start)) s"; }

say "# Install without a network"
say
say '`tests/offline/run.sh` of commit '"$(git -C "$repo" rev-parse --short=12 HEAD), $("$python" -V), $(uname -sm)."
say '```'
mkdir "$work/home" "$work/home2"
git clone -q "$repo" "$work/online"
say '$ make wheelhouse   # with a network, in one clone'
timed env HOME="$work/home" make --no-print-directory -s -C "$work/online" wheelhouse PYTHON="$python" 2>&1

git clone -q "$repo" "$work/clone"
mv "$work/online/wheelhouse" "$work/clone/"
rm -rf "$work/online"
alone=(unshare -n env -i HOME="$work/home2" PATH="$(dirname "$(command -v "$python")"):/usr/local/bin:/usr/bin:/bin" LANG=C.UTF-8)
unshare -n true 2>/dev/null || alone=(unshare -rn "${alone[@]:2}")
say
say '# a network namespace of its own: devices, a route to anywhere, and pip without the wheelhouse'
say "devices: $("${alone[@]}" awk -F: 'NR > 2 {printf "%s", $1}' /proc/net/dev)"
"${alone[@]}" "$python" -c 'import socket; socket.create_connection(("1.1.1.1", 443), 5)' 2>&1 | tail -1 || true # it must fail
if "${alone[@]}" "$python" -m pip download -q --retries 0 --timeout 5 --no-cache-dir -d "$work/none" six > "$work/pip.log" 2>&1; then say 'pip reached an index: the network is NOT blocked'; exit 1; else say 'pip: no index can be reached'; fi
say
say '$ make install OFFLINE=1   # another fresh clone with the wheelhouse, empty HOME, nothing else'
timed "${alone[@]}" make --no-print-directory -s -C "$work/clone" install OFFLINE=1 PYTHON="$python" 2>&1
say
say '$ make paper OFFLINE=1 PROFILE=smoke ITEMS=t1_cohort'
timed "${alone[@]}" OMP_NUM_THREADS=1 make --no-print-directory -s -C "$work/clone" paper OFFLINE=1 PROFILE=smoke ITEMS=t1_cohort OVERRIDES='paper.samplers=[gaussian_mixture] paper.shadows=0' CORES=1 2>&1 | grep -v 'epoch'
say
say '$ head -3 of the table'
head -3 "$work"/clone/_scratch/figures/smoke-*/t1_cohort.csv
say
say "# a damaged wheelhouse is refused"
rm -rf "$work/clone/.venv" && : > "$work/clone/wheelhouse/$(ls "$work/clone/wheelhouse" | grep -m1 '^numpy')"
if "${alone[@]}" make --no-print-directory -s -C "$work/clone" install OFFLINE=1 PYTHON="$python" > "$work/bad.log" 2>&1; then say 'it was NOT refused'; exit 1; else grep -m1 'OFFLINE' "$work/bad.log"; fi
say '```'
