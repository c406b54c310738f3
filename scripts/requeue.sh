#!/usr/bin/env bash
# Reruns a command while it exits with 75, launch.py's code for "preempted, checkpoint saved":
#
#     scripts/requeue.sh python launch.py --config=configs/digits.py --workdir=runs/digits
#
# It also reruns after 134 if the command ran for a minute or more: JAX aborts a process of a multi-process run when
# another dies. It returns any other exit code.
#
# SIGTERM, SIGINT and SIGHUP end the loop: it forwards the signal to the command (SIGHUP as SIGTERM), does not rerun it,
# and returns its exit code, 75 included.
#
# REQUEUE_SECONDS: pause before a rerun, in seconds (default 30).
# ABORT_SECONDS: how long a command must have run that is rerun after 134 (default 60).

# -m puts the command into its own process group, so that Ctrl-C reaches it once, through this script. A second signal
# would end it before it has saved.
set -um

pause=${REQUEUE_SECONDS:-30}
child=
stopping=
pending=

forward() {
    stopping=$1
    interrupted=yes
    if [[ $child ]]; then kill -s "$1" "$child" 2>/dev/null; else pending=$1; fi
}
trap 'forward TERM' TERM HUP
trap 'forward INT' INT

run() {
    local code
    # The terminal stops a background command that reads from it.
    "$@" </dev/null &
    child=$!
    if [[ $pending ]]; then kill -s "$pending" "$child"; fi
    # A signal ends bash's `wait` but not the command: wait again.
    interrupted=yes
    while [[ $interrupted ]]; do
        interrupted=
        wait "$child"
        code=$?
    done
    child=
    return "$code"
}

while true; do
    SECONDS=0
    run "$@"
    code=$?
    # A command that aborts (134) within a minute has its own fault, which a rerun would repeat.
    rerun=
    if [[ $code -eq 75 || ($code -eq 134 && $SECONDS -ge ${ABORT_SECONDS:-60}) ]]; then rerun=yes; fi
    [[ $rerun && ! $stopping ]] || exit "$code"
    echo "requeue: exit code $code; rerunning in $pause s" >&2
    run sleep "$pause"
    [[ ! $stopping ]] || exit "$code"
done
