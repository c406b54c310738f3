#!/usr/bin/env bash
# Runs a command that outlives its terminal and its connection. One command at a time per directory; Linux only.
#
#     scripts/detach.sh COMMAND...    starts the command, or follows it if it is running already
#     scripts/detach.sh --stop        sends SIGTERM to the running command
#
# Following prints the command's output and returns its exit code: 143 after --stop, 137 if the command was killed.
# Exit code 2: another command is running.
set -u

state=runs/.detached # log, pid and exit code of the last command
mkdir -p "$state"
# The command holds this lock until it ends, however it ends.
exec 9>>"$state/lock"

if [[ ${1-} == --stop ]]; then
    if flock --nonblock 9; then
        echo "detach: nothing is running here" >&2
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
    set -m # in its own process group, out of reach of Ctrl-C
    (
        trap '' HUP
        trap : TERM # a machine that shuts down signals every process; still record the exit code
        "$@" 9>&-
        echo $? >"$state/exit_code"
    ) </dev/null >>"$state/log" 2>&1 &
    set +m
    echo $! >"$state/pid"
    from=+1
elif [[ $(printf '%q ' "$@") == "$(<"$state/command")" ]]; then
    from=10
else
    echo "detach: another command is running here: $(<"$state/command")" >&2
    exit 2
fi
exec 9>&-

tail --pid="$(<"$state/pid")" --lines="$from" --follow --sleep-interval=0.2 "$state/log"
[[ ! -e $state/stopped ]] || exit 143
# Without a recorded exit code, the command was killed.
exit "$(cat "$state/exit_code" 2>/dev/null || echo 137)"
