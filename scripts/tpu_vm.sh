#!/usr/bin/env bash
# A TPU VM of one or more hosts, as a queued resource:
#
#     scripts/tpu_vm.sh create             asks for it
#     scripts/tpu_vm.sh wait               until it is there
#     scripts/tpu_vm.sh install            this repository's last commit and all it needs, on every host
#     scripts/tpu_vm.sh run ARGUMENTS      launch.py on every host; again, for as long as it exits with 75
#     scripts/tpu_vm.sh keep ARGUMENTS     the same, and all of the above whenever the VM is gone
#     scripts/tpu_vm.sh stop               asks the run to save and leave
#     scripts/tpu_vm.sh delete
#
# A run goes on when this terminal or the connection goes; `run` or `keep` with the same ARGUMENTS follows it again.
set -euo pipefail

if [[ ! ${1-} =~ ^(create|wait|install|run|keep|stop|delete)$ ]] || [[ $1 =~ ^(run|keep)$ && $# -eq 1 ]]; then
    sed -n '2,/^set/s/^#\( \|$\)//p' "$0" >&2
    exit 2
fi

PROJECT=${PROJECT:?is a Google Cloud project}
ZONE=${ZONE:?is a zone with TPUs, such as us-east5-b}
NAME=${NAME:-vicreg}                                # of the queued resource, and of its one node
ACCELERATOR=${ACCELERATOR:-v6e-8}                   # v6e-16 and larger have several hosts
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv6e} # goes with ACCELERATOR
SPOT=${SPOT:-}                                      # 1: a spot VM, which can be taken away
SETUP=${SETUP:-true}                                # run on every host at the end of `install`: mounts, say
POLL_SECONDS=${POLL_SECONDS:-30}
DRY_RUN=${DRY_RUN:-} # 1: the commands are printed, none is run

root=$(cd "$(dirname "$0")/.." && pwd)
where=(--project="$PROJECT" --zone="$ZONE")
ssh=(gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all)
exec 3>&1 # what a dry run prints to, inside $(...) too

# Words as a shell takes them back.
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

# ACTIVE, SUSPENDED, ...; nothing where there is no such resource. Fails where gcloud has no answer.
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
            echo "tpu_vm: $NAME is ${now:-not there}" >&2
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
    [[ ! $(git -C "$root" status --porcelain) ]] || echo "tpu_vm: what is not committed stays here" >&2
    execute mkdir -p "$root/runs" &&
        execute git -C "$root" archive --prefix=vicreg_jax/ --output="$archive" HEAD &&
        execute gcloud compute tpus tpu-vm scp "$archive" "$NAME:" "${where[@]}" --worker=all &&
        # uv brings a Python: that of the VM's image may be older than the project takes.
        on_hosts "tar -xzf vicreg_jax.tar.gz && cd vicreg_jax && rm -f .installed && \
python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt 'jax[tpu]' && \
{ $SETUP; } && touch .installed"
}

# The command line on a host.
launch() {
    echo "cd vicreg_jax && scripts/detach.sh .venv/bin/python launch.py $(quoted "$@")"
}

# The loop is here, not on the hosts: they start again together.
run() {
    execute "$root/scripts/requeue.sh" "${ssh[@]}" --command="$(launch "$@")"
}

# An active VM with everything installed, from whatever there is.
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
    # What cannot even be asked for (a quota, a wrong name) does not get better.
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
        { revive && on_hosts "$(launch "$@")"; } || code=$?
        [[ $code -ne 0 ]] || return 0
        # Also gcloud says 1 and 2, where the VM is gone. If the hosts answer the code is the run's.
        if [[ $code -ne 75 && $code -ne 255 ]] && on_hosts true; then
            return "$code"
        fi
        echo "tpu_vm: exit code $code; again in $POLL_SECONDS s" >&2
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
