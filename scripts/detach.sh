#!/usr/bin/env bash
# Runs a command that outlives the terminal or connection it was started from; one at a time in a directory (Linux):
#
#     scripts/detach.sh COMMAND...    prints what it prints, returns its exit code; while it runs, the same line follows it
#     scripts/detach.sh --stop        sends it SIGTERM; who follows it gets 143
set -u

state=runs/.detached # log, pid, exit_code: of the last one
mkdir -p "$state"
# Held for as long as the command runs, whatever ends it.
exec 9>>"$state/lock"

if [[ ${1-} == --stop ]]; then
    if flock --nonblock 9; then
        echo "detach: nothing runs here" >&2
    else
        touch "$state/stopped"
        pkill -TERM --parent "$(<"$state/pid")"
    fi
    exit
fi

if flock --nonblock 9; then
    rm -f "$state/exit_code" "$state/stopped"
    printf '%q ' "$@" >"$state/command"
    : >"$state/log"
    set -m # a process group of its own, which Ctrl-C here does not reach
    (
        trap '' HUP
        trap : TERM # a machine that shuts down signals every process; the exit code is written nevertheless
        "$@" 9>&-
        echo $? >"$state/exit_code"
    ) </dev/null >>"$state/log" 2>&1 &
    set +m
    echo $! >"$state/pid"
    from=+1
elif [[ $(printf '%q ' "$@") == "$(<"$state/command")" ]]; then
    from=10
else
    echo "detach: another command runs here: $(<"$state/command")" >&2
    exit 2
fi
exec 9>&-

tail --pid="$(<"$state/pid")" --lines="$from" --follow --sleep-interval=0.2 "$state/log"
[[ ! -e $state/stopped ]] || exit 143
# No exit code: it was killed before it could be written.
exit "$(cat "$state/exit_code" 2>/dev/null || echo 137)"
