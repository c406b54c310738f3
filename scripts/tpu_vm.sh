#!/usr/bin/env bash
# Creates a Cloud TPU VM of one or more hosts as a queued resource, and trains on it:
#
#     scripts/tpu_vm.sh create             request the VM
#     scripts/tpu_vm.sh wait               wait until it is active
#     scripts/tpu_vm.sh install            install the last commit and its requirements on every host
#     scripts/tpu_vm.sh run ARGUMENTS      run launch.py on every host; rerun it as scripts/requeue.sh does
#     scripts/tpu_vm.sh keep ARGUMENTS     like run, after all of the above; all of it again when the VM is preempted
#     scripts/tpu_vm.sh stop               ask the run to save and exit
#     scripts/tpu_vm.sh delete             delete the VM
#
# The run outlives this terminal and its connection; `run` or `keep` with the same ARGUMENTS follows it again.
# Exit codes: those of launch.py; 2 for a wrong command; 1 if the VM is not active or gcloud fails.
set -euo pipefail

if [[ ! ${1-} =~ ^(create|wait|install|run|keep|stop|delete)$ ]] || [[ $1 =~ ^(run|keep)$ && $# -eq 1 ]]; then
    sed -n '2,/^set/s/^#\( \|$\)//p' "$0" >&2
    exit 2
fi

PROJECT=${PROJECT:?must be a Google Cloud project}
ZONE=${ZONE:?must be a zone with TPUs, such as us-east5-b}
NAME=${NAME:-vicreg}                                # of the queued resource and of its node
ACCELERATOR=${ACCELERATOR:-v6e-8}                   # v6e-16 and larger have several hosts
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv6e} # must match ACCELERATOR
SPOT=${SPOT:-}                                      # 1: a spot VM, which can be preempted
SETUP=${SETUP:-true}                                # runs on every host after `install`, for mounts and the like
POLL_SECONDS=${POLL_SECONDS:-30}
DRY_RUN=${DRY_RUN:-} # 1: print the commands, run none

root=$(cd "$(dirname "$0")/.." && pwd)
where=(--project="$PROJECT" --zone="$ZONE")
ssh=(gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all)
exec 3>&1 # a dry run prints here, also inside $(...)

# Quotes words for the shell.
quoted() {
    local word words=() quote="'\\''"
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/$quote}'"
        words+=("$word")
    done
    echo "${words[*]}"
}

execute() {
    if [[ $DRY_RUN ]]; then
        quoted "$@" >&3
    else
        "$@"
    fi
}

on_hosts() {
    execute "${ssh[@]}" --command="$1"
}

create() {
    execute gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
        --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME_VERSION" ${SPOT:+--spot}
}

delete() {
    execute gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

# Prints ACTIVE, SUSPENDED, ..., or nothing if the resource does not exist. Fails if gcloud fails.
state() {
    execute gcloud compute tpus queued-resources list "${where[@]}" --filter="name~/$NAME\$" \
        --format='value(state.state)'
}

await_active() {
    local now
    while now=$(state); do
        case $now in
        ACTIVE) return ;;
        "" | FAILED | SUSPENDING | SUSPENDED)
            [[ ! $DRY_RUN ]] || return 0
            echo "tpu_vm: $NAME is ${now:-missing}" >&2
            return 1
            ;;
        esac
        echo "tpu_vm: $NAME is $now" >&2
        sleep "$POLL_SECONDS"
    done
    return 1
}

install() {
    local archive=$root/runs/vicreg_jax.tar.gz
    [[ ! $(git -C "$root" status --porcelain) ]] || echo "tpu_vm: uncommitted changes are not installed" >&2
    execute mkdir -p "$root/runs" &&
        execute git -C "$root" archive --prefix=vicreg_jax/ --output="$archive" HEAD &&
        execute gcloud compute tpus tpu-vm scp "$archive" "$NAME:" "${where[@]}" --worker=all &&
        # uv provides Python: the VM image's own may be too old.
        on_hosts "tar -xzf vicreg_jax.tar.gz && cd vicreg_jax && rm -f .installed && \
python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt 'jax[tpu]' && \
{ $SETUP; } && touch .installed"
}

# Prints the command that a host runs.
launch() {
    echo "cd vicreg_jax && scripts/detach.sh .venv/bin/python launch.py $(quoted "$@")"
}

# The loop runs here, not on the hosts, so that all hosts restart together.
run() {
    execute "$root/scripts/requeue.sh" "${ssh[@]}" --command="$(launch "$@")"
}

# Brings the VM into the active state with everything installed, from any state.
revive() {
    local now
    now=$(state) || return
    case $now in
    DELETING | SUSPENDING) return 1 ;;
    FAILED | SUSPENDED)
        delete || return
        now=
        ;;
    esac
    # A request that fails (quota, wrong name) would fail again: exit.
    [[ $now ]] || create || exit
    await_active || return
    if [[ $DRY_RUN ]] || ! on_hosts "test -e vicreg_jax/.installed"; then
        install
    fi
}

keep() {
    local code
    while true; do
        code=0
        SECONDS=0
        { revive && on_hosts "$(launch "$@")"; } || code=$?
        [[ $code -ne 0 ]] || return 0
        # gcloud exits with 1 or 2 as well when the VM is gone. If the hosts answer, the code is the run's.
        # 134: JAX aborts a process whose peer has died. A run that aborts within a minute has its own fault.
        if [[ $code -eq 134 && $SECONDS -ge ${ABORT_SECONDS:-60} ]]; then code=75; fi
        if [[ $code -ne 75 && $code -ne 255 ]] && on_hosts true; then
            return "$code"
        fi
        echo "tpu_vm: exit code $code; rerunning in $POLL_SECONDS s" >&2
        sleep "$POLL_SECONDS"
    done
}

stop() {
    on_hosts "cd vicreg_jax && scripts/detach.sh --stop"
}

case $1 in
wait) await_active ;;
*) "$@" ;;
esac
