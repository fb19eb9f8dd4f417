#!/usr/bin/env bash
# A SLURM of one machine out of Debian's packages (apt-get install slurm-wlm munge), without systemd, for tests.
#   scripts/slurm_up.sh FOLDER [CPUS]     start it; everything it writes is in FOLDER
#   export SLURM_CONF=FOLDER/slurm.conf   then sbatch, squeue, scontrol answer
#   scripts/slurm_up.sh --stop FOLDER     end it
# Needs root: slurmd starts jobs as the users who sent them. There is no accounting, so no sacct, as on many clusters.
set -euo pipefail

stop() {
  local name pid
  for name in slurmd slurmctld munged; do
    [ -e "$1/$name.pid" ] || continue
    pid=$(cat "$1/$name.pid")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  done
}

if [ "${1:-}" = --stop ]; then stop "$2"; exit; fi
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for program in munged slurmctld slurmd scontrol; do
  command -v "$program" >/dev/null || { echo "needs $program: apt-get install slurm-wlm munge" >&2; exit 5; }
done
[ "$(id -u)" = 0 ] || { echo "needs root, since slurmd starts jobs as the users who sent them" >&2; exit 5; }

folder=$(mkdir -p "$1" && cd "$1" && pwd)
cpus=${2:-2}
host=$(hostname -s)
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
mkdir -p "$folder"/{state,spool}
( umask 077; head -c 1024 /dev/urandom > "$folder/munge.key" )

cat > "$folder/slurm.conf" <<CONF
ClusterName=zoo
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$(port)
SlurmdPort=$(port)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=1
ReturnToService=2
KillWait=10
MinJobAge=60
SlurmdTimeout=300
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=1000 State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" --num-threads=2 2>"$folder/munged.err"  # --force: the folder may be ours alone
slurmctld -c -f "$SLURM_CONF"
slurmd -c -f "$SLURM_CONF"
for _ in $(seq 100); do
  if sinfo --noheader --format=%t 2>/dev/null | grep -q idle; then echo "$SLURM_CONF"; exit; fi
  sleep 0.2
done
echo "SLURM did not come up; see $folder/slurmctld.log and slurmd.log" >&2
stop "$folder"
exit 1
