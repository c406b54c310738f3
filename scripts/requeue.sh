#!/usr/bin/env bash
# Runs a command again for as long as it exits with 75, which launch.py means by "to be run again":
#
#     scripts/requeue.sh python launch.py --config=configs/digits.py --workdir=runs/digits
#
# So it does with 134 after a minute: one of several processes that JAX ended because the first had died. Any other exit
# code is returned. SIGTERM, SIGINT and SIGHUP ask this loop to leave: the command hears of it (SIGHUP as
# SIGTERM), is not started again, and its exit code is returned, 75 too.
#
# REQUEUE_SECONDS: the pause before the command is run again (30).

# -m: a process group for the command, so that Ctrl-C reaches it once, through here. The second signal would end it
# before it has saved.
set -um

pause=${REQUEUE_SECONDS:-30}
child=
leaving=
missed=

pass_on() {
    leaving=$1
    interrupted=yes
    if [[ $child ]]; then kill -s "$1" "$child" 2>/dev/null; else missed=$1; fi
}
trap 'pass_on TERM' TERM HUP
trap 'pass_on INT' INT

run() {
    local code
    # A background command that reads from a terminal is stopped.
    "$@" </dev/null &
    child=$!
    if [[ $missed ]]; then kill -s "$missed" "$child"; fi
    # A signal ends bash's `wait`, but not the command.
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
    # 134: JAX ended this process, for the first one died. One that aborts as soon as it begins has another reason.
    again=
    if [[ $code -eq 75 || ($code -eq 134 && $SECONDS -ge 60) ]]; then again=yes; fi
    [[ $again && ! $leaving ]] || exit "$code"
    echo "requeue: exit code $code; again in $pause s" >&2
    run sleep "$pause"
    [[ ! $leaving ]] || exit "$code"
done
