"""The shell scripts: linted, and run with stand-ins for gcloud, srun, scontrol and python that record their calls."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
REQUEUE, DETACH, SLURM = (str(ROOT / "scripts" / name) for name in ("requeue.sh", "detach.sh", "slurm.sh"))
LAUNCH = ["launch.py", "--config=configs/digits.py:moco", "--config.data.train_split=train[:90%]", "--workdir=it's $1;"]
TERM, INT, HUP, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL


class StandIns:
    """Stand-ins for executables; `calls` lists the arguments of each call."""

    def __init__(self, directory: Path):
        self.directory = directory
        (directory / "bin").mkdir()
        # The developer's environment may hold settings of the scripts: leave it out.
        self.environment = {
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "HOME": str(directory),
            "HERE": str(directory),
        }

    def add(self, name: str, body: str = "") -> None:
        path = self.directory / "bin" / name
        record = '{ printf "%q " "${0##*/}" "$@"; echo; } >>"$HERE/calls"'
        path.write_text(f"#!/usr/bin/env bash\n{record}\n{body}\n")
        path.chmod(0o755)

    def add_exits(self, name: str, *codes: int) -> None:
        """Adds an executable that exits with these codes in turn."""
        (self.directory / "codes").write_text("".join(f"{code}\n" for code in codes))
        self.add(name, 'code=$(head -n 1 "$HERE/codes"); sed -i 1d "$HERE/codes"; exit "$code"')

    def add_listening(self, name: str, code: int) -> None:
        """Adds an executable that records signals in the file `signals` and exits 0.1 s after the first."""
        self.add(
            name,
            """for name in TERM INT; do trap "echo $name >>'$HERE/signals'; stopped=yes" $name; done
            touch "$HERE/is_ready"
            while [[ ! ${stopped-} ]]; do sleep 0.02; done
            sleep 0.1
            exit """
            + str(code),
        )

    @property
    def calls(self) -> list[list[str]]:
        path = self.directory / "calls"
        return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def signals(self) -> list[str]:
        return (self.directory / "signals").read_text().split()

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, **settings)
        output, errors = process.communicate(timeout=30)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def start(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """Starts the command in its own process group, as a terminal does."""
        return subprocess.Popen(
            command,
            env=self.environment | settings,
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.calls
            time.sleep(0.02)

    def wait_until_ready(self) -> None:
        self.wait_for((self.directory / "is_ready").exists)


@pytest.fixture
def stand_ins(tmp_path):
    return StandIns(tmp_path)


def end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=10)
    return process.returncode


def test_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck must be installed: pip install -e '.[dev]'"
    checked = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_is_valid_bash_and_executable(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK)


class TestRequeue:
    def test_reruns_on_75(self, stand_ins):
        stand_ins.add_exits("python", 75, 75, 0)
        done = stand_ins.run(REQUEUE, "python", *LAUNCH, REQUEUE_SECONDS="0.1")
        assert done.returncode == 0
        assert stand_ins.calls == [["python", *LAUNCH]] * 3
        assert done.stderr.count("exit code 75; rerunning in 0.1 s") == 2

    @pytest.mark.parametrize(("abort_seconds", "code"), [("0", 0), ("60", 134)])
    def test_reruns_on_134_unless_it_came_soon(self, stand_ins, abort_seconds, code):
        """JAX aborts a process whose peer has died; a command that aborts at once has its own fault."""
        stand_ins.add_exits("python", 134, 0)
        done = stand_ins.run(REQUEUE, "python", REQUEUE_SECONDS="0.1", ABORT_SECONDS=abort_seconds)
        assert done.returncode == code
        assert len(stand_ins.calls) == (2 if code == 0 else 1)

    @pytest.mark.parametrize("code", [0, 1, 137])
    def test_returns_every_other_code(self, stand_ins, code):
        stand_ins.add_exits("python", code)
        assert stand_ins.run(REQUEUE, "python").returncode == code
        assert len(stand_ins.calls) == 1

    @pytest.mark.parametrize(
        ("sent", "received", "code"),
        [
            (TERM, "TERM", 75),
            pytest.param(TERM, "TERM", 0, marks=pytest.mark.slow),
            pytest.param(INT, "INT", 130, marks=pytest.mark.slow),
            pytest.param(HUP, "TERM", 75, marks=pytest.mark.slow),
        ],
    )
    def test_forwards_a_signal_and_stops(self, stand_ins, sent, received, code):
        stand_ins.add_listening("python", code)
        process = stand_ins.start(REQUEUE, "python")
        stand_ins.wait_until_ready()
        # To the process group, like Ctrl-C. The command receives it once: a second signal would end it unsaved.
        os.killpg(process.pid, sent)
        assert end(process) == code
        assert stand_ins.signals == [received]
        assert len(stand_ins.calls) == 1

    def test_command_does_not_read_from_the_terminal(self, stand_ins):
        # ssh does; the terminal would stop it.
        process = stand_ins.start(REQUEUE, "cat")
        assert process.wait(timeout=10) == 0
        process.communicate()

    @pytest.mark.parametrize("sent", [TERM, pytest.param(INT, marks=pytest.mark.slow)])
    def test_signal_ends_the_pause(self, stand_ins, sent):
        stand_ins.add_exits("python", 75, 0)
        process = stand_ins.start(REQUEUE, "python", REQUEUE_SECONDS="20")
        assert "rerunning in 20 s" in process.stderr.readline()
        process.send_signal(sent)
        assert end(process) == 75
        assert len(stand_ins.calls) == 1


class TestDetach:
    def wrapper(self, stand_ins) -> int:
        return int((stand_ins.directory / "runs/.detached/pid").read_text())

    def test_output_and_code(self, stand_ins):
        stand_ins.add("python", 'sleep 2 & echo out; echo error >&2; echo "$2"; exit 3')
        done = stand_ins.run(DETACH, "python", "launch.py", "it's $1;")
        assert done.returncode == 3
        assert done.stdout.splitlines() == ["out", "error", "it's $1;"]
        # The command has ended, whatever it left behind: another may start.
        assert stand_ins.run(DETACH, "python", "other.py").returncode == 3
        assert stand_ins.calls[1] == ["python", "other.py"]

    @pytest.mark.slow
    def test_outlives_its_terminal_and_is_followed_again(self, stand_ins):
        stand_ins.add("python", "echo started; until [[ -e $HERE/go ]]; do sleep 0.02; done; echo done; exit 75")
        first = stand_ins.start(DETACH, "python", *LAUNCH)
        assert first.stdout.readline() == "started\n"
        other = stand_ins.run(DETACH, "python", "other.py")
        assert other.returncode == 2
        assert "another command is running here: python launch.py" in other.stderr
        for sent in (INT, HUP, KILL):
            os.killpg(first.pid, sent)
        end(first)
        second = stand_ins.start(DETACH, "python", *LAUNCH)
        assert second.stdout.readline() == "started\n"
        (stand_ins.directory / "go").touch()
        assert second.stdout.readline() == "done\n"
        assert end(second) == 75
        assert stand_ins.calls == [["python", *LAUNCH]]

    def test_stop(self, stand_ins):
        stand_ins.add_listening("python", 75)
        process = stand_ins.start(DETACH, "python")
        stand_ins.wait_until_ready()
        assert stand_ins.run(DETACH, "--stop").returncode == 0
        assert end(process) == 143  # not 75, on which requeue.sh would rerun it
        assert stand_ins.signals == ["TERM"]
        assert "nothing is running here" in stand_ins.run(DETACH, "--stop").stderr
        assert stand_ins.run(DETACH, "true").returncode == 0

    def test_machine_shuts_down(self, stand_ins):
        stand_ins.add_listening("python", 75)
        process = stand_ins.start(DETACH, "python")
        stand_ins.wait_until_ready()
        # Every process receives the signals; the command must not receive a second one.
        for sent in (TERM, HUP):
            os.killpg(self.wrapper(stand_ins), sent)
        assert end(process) == 75
        assert stand_ins.signals == ["TERM"]

    @pytest.mark.slow
    def test_killed(self, stand_ins):
        stand_ins.add_listening("python", 0)
        assert stand_ins.run(DETACH, "true").returncode == 0
        process = stand_ins.start(DETACH, "python")
        stand_ins.wait_until_ready()
        os.killpg(self.wrapper(stand_ins), KILL)
        assert end(process) == 137


class TestSlurm:
    def submit(self, stand_ins, **settings) -> subprocess.Popen[str]:
        """Runs the script like sbatch: a copy elsewhere, with sbatch's variables."""
        stand_ins.add("srun", 'while [[ $1 == --* ]]; do shift; done; "$@"')
        stand_ins.add("scontrol")
        (stand_ins.directory / "repository").mkdir()
        copy = shutil.copy(SLURM, stand_ins.directory / "slurm_script")
        variables = {
            "SLURM_JOB_ID": "17",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_SUBMIT_DIR": str(stand_ins.directory / "repository"),
            "PYTHON": "python",
        }
        return stand_ins.start("bash", str(copy), *LAUNCH[1:], **variables, **settings)

    @pytest.mark.parametrize("code", [0, 1, 75])
    def test_requeues_on_75_only(self, stand_ins, code):
        stand_ins.add_exits("python", code)
        assert end(self.submit(stand_ins)) == code
        task = ["python", *LAUNCH]
        assert stand_ins.calls[:2] == [["srun", "--kill-on-bad-exit=0", "--cpus-per-task=8", *task], task]
        assert stand_ins.calls[2:] == ([["scontrol", "requeue", "17"]] if code == 75 else [])

    @pytest.mark.parametrize(("abort_seconds", "requeues"), [("0", True), ("60", False)])
    def test_requeues_on_134_unless_it_came_soon(self, stand_ins, abort_seconds, requeues):
        stand_ins.add_exits("python", 134)
        assert end(self.submit(stand_ins, ABORT_SECONDS=abort_seconds)) == 134
        assert (["scontrol", "requeue", "17"] in stand_ins.calls) == requeues

    def test_canceled_job_is_not_requeued(self, stand_ins):
        stand_ins.add_listening("python", 75)
        process = self.submit(stand_ins)
        stand_ins.wait_until_ready()
        os.killpg(process.pid, TERM)
        assert end(process) == -TERM
        assert "scontrol" not in [call[0] for call in stand_ins.calls]

    def test_options_reach_sbatch(self):
        lines = Path(SLURM).read_text().splitlines()
        # sbatch reads options up to the first command.
        head = lines[: next(number for number, line in enumerate(lines) if line and not line.startswith("#"))]
        options = [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH")]
        assert len(options) == sum("#SBATCH" in line for line in lines)
        # "B:TERM" would reach the batch shell only.
        assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(options)


# Two hosts are two directories, each its own home. The VM becomes active after one look at the queue.
GCLOUD = """
cd "$HERE"
case "$*" in
*" queued-resources create "*) echo PROVISIONING >state ;;
*" queued-resources delete "*) rm -r state hosts ;;
*" queued-resources list "*)
    touch state; cat state
    if [[ $(<state) == PROVISIONING ]]; then echo ACTIVE >state; mkdir -p hosts/0 hosts/1; fi ;;
*" scp "*) for host in hosts/*; do cp "$5" "$host"; done ;;
*" ssh "*)
    command=${@: -1}; pids=(); result=0
    [[ $(<state) == ACTIVE ]] || exit 1
    for host in hosts/*; do
        (cd "$host"; HOME=$PWD exec bash -c "${command#--command=}") & pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || { code=$?; [[ $result -ne 0 ]] || result=$code; }
    done
    [[ $(<state) == ACTIVE ]] || exit 1 # like gcloud, whatever the command's code
    exit "$result" ;;
esac"""

# `uv venv` gives a host a python that obeys the file `next_HOST`: exit with a code, or lose the VM.
PYTHON3 = """
if [[ "$*" == *" venv "* ]]; then mkdir -p .venv/bin; cp "$HERE/bin/host_python" .venv/bin/python; fi"""
HOST_PYTHON = """
host=${HOME##*/}; next=$(head -n 1 "$HERE/next_$host"); sed -i 1d "$HERE/next_$host"
if [[ $next == gone ]]; then echo SUSPENDED >"$HERE/state"; exit 255; fi
exit "$next" """


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with a commit, which the hosts install."""
    directory = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "scripts", directory / "scripts")
    git = ("git", "-c", "user.name=name", "-c", "user.email=name@example.org", "-C", str(directory))
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message=scripts")):
        subprocess.run([*git, *command], env={"PATH": os.environ["PATH"], "HOME": str(directory)}, check=True)
    return directory


class TestTPU:
    @pytest.fixture
    def stand_ins(self, stand_ins, repository):
        for name, body in (("gcloud", GCLOUD), ("python3", PYTHON3), ("host_python", HOST_PYTHON)):
            stand_ins.add(name, body)
        stand_ins.environment |= {
            "PROJECT": "project",
            "ZONE": "zone",
            "POLL_SECONDS": "0.1",
            "REQUEUE_SECONDS": "0.1",
            "tpu_vm": str(repository / "scripts/tpu_vm.sh"),
        }
        return stand_ins

    def tpu_vm(self, stand_ins, *command, **settings):
        return stand_ins.run(stand_ins.environment["tpu_vm"], *command, **settings)

    def set_exits(self, stand_ins, *exits_per_host):
        for host, exits in enumerate(exits_per_host):
            (stand_ins.directory / f"next_{host}").write_text("".join(f"{value}\n" for value in exits))

    def gcloud_calls(self, stand_ins):
        """The subcommands of gcloud that were called."""
        return " ".join(call[4] for call in stand_ins.calls if call[0] == "gcloud")

    @pytest.mark.slow
    def test_from_nothing_to_a_complete_run(self, stand_ins):
        self.set_exits(stand_ins, [75, 75, 0], [0, 75, 0])
        for command in ("create", "wait", "install"):
            done = self.tpu_vm(stand_ins, command, SETUP="echo mounted >>../setup")
            assert done.returncode == 0, done.stderr
        done = self.tpu_vm(stand_ins, "run", *LAUNCH[1:])
        assert done.returncode == 0
        assert done.stderr.count("rerunning") == 2
        assert [call for call in stand_ins.calls if call[0] == "python"] == [["python", *LAUNCH]] * 6
        assert self.gcloud_calls(stand_ins) == "create list list scp ssh ssh ssh ssh"
        for host in (stand_ins.directory / "hosts").iterdir():
            assert (host / "setup").read_text() == "mounted\n"
        self.tpu_vm(stand_ins, "delete")
        assert not (stand_ins.directory / "hosts").exists()

    @pytest.mark.slow
    def test_keep_replaces_a_preempted_vm(self, stand_ins):
        self.set_exits(stand_ins, ["gone", 75, 0], [75, 75, 0])
        done = self.tpu_vm(stand_ins, "keep", *LAUNCH[1:], SPOT="1")
        assert done.returncode == 0, done.stderr
        assert [call for call in stand_ins.calls if call[0] == "python"] == [["python", *LAUNCH]] * 6
        new = "create list list ssh scp ssh ssh"  # check for .installed, install, run
        assert self.gcloud_calls(stand_ins) == f"list {new} ssh list delete {new} list list ssh ssh"
        assert all(call[-1] == "--spot" for call in stand_ins.calls if call[4:5] == ["create"])

    @pytest.mark.slow
    @pytest.mark.parametrize("command", ["run", "keep"])
    def test_reruns_on_134_of_a_host_whose_peer_died(self, stand_ins, command):
        for preparation in ("create", "wait", "install"):
            self.tpu_vm(stand_ins, preparation)
        self.set_exits(stand_ins, [134, 0], [75, 0])
        done = self.tpu_vm(stand_ins, command, "--config=c", ABORT_SECONDS="0")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("rerunning") == 1

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            ("keep", 1),
            pytest.param("run", 1, marks=pytest.mark.slow),
            pytest.param("keep", 137, marks=pytest.mark.slow),
        ],
    )
    def test_other_codes_are_returned(self, stand_ins, command, code):
        for preparation in ("create", "wait", "install"):
            self.tpu_vm(stand_ins, preparation)
        self.set_exits(stand_ins, [code], [75])
        assert self.tpu_vm(stand_ins, command, "--config=c").returncode == code

    def test_keep_exits_if_the_request_fails(self, stand_ins):
        stand_ins.add("gcloud", "[[ $4 == list ]] || exit 1")
        assert self.tpu_vm(stand_ins, "keep", "--config=c").returncode == 1
        assert self.gcloud_calls(stand_ins) == "list create"

    def test_keep_survives_gcloud_failures(self, stand_ins):
        stand_ins.add("gcloud", '[[ $(wc -l <"$HERE/calls") -gt 5 ]] && exit 0; exit 1')
        done = self.tpu_vm(stand_ins, "keep", "--config=c")
        assert done.stderr.count("rerunning") >= 2

    @pytest.mark.slow
    def test_keep_stops_on_sigterm(self, stand_ins):
        stand_ins.add("gcloud", "case $4 in list) echo ACTIVE ;; *) sleep 0.2; exit 75 ;; esac")
        process = stand_ins.start(stand_ins.environment["tpu_vm"], "keep", "--config=c")
        stand_ins.wait_for(lambda: "ssh" in self.gcloud_calls(stand_ins))
        process.terminate()
        assert end(process) == -TERM
        before = stand_ins.calls
        time.sleep(0.6)
        assert stand_ins.calls == before

    @pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", ""])
    def test_wait_fails_for_a_vm_that_never_becomes_active(self, stand_ins, state):
        (stand_ins.directory / "state").write_text(state)
        done = self.tpu_vm(stand_ins, "wait")
        assert done.returncode == 1
        assert f"vicreg is {state or 'missing'}" in done.stderr

    @pytest.mark.parametrize(
        "command",
        ["install", "run", *(pytest.param(name, marks=pytest.mark.slow) for name in ("create", "stop", "delete"))],
    )
    def test_output_of_a_dry_run_can_be_pasted(self, stand_ins, command):
        stand_ins.add("gcloud")
        arguments = LAUNCH[1:] if command == "run" else []
        settings = {"SPOT": "1", "SETUP": "echo 'a mount'"}
        printed = self.tpu_vm(stand_ins, command, *arguments, **settings, DRY_RUN="1")
        assert printed.returncode == 0
        assert stand_ins.calls == []
        self.tpu_vm(stand_ins, command, *arguments, **settings)
        calls = stand_ins.calls
        assert calls
        stand_ins.run("bash", "-c", printed.stdout)
        assert stand_ins.calls == calls * 2

    def test_dry_run_of_keep_prints_every_command(self, stand_ins):
        printed = self.tpu_vm(stand_ins, "keep", "--config=c", DRY_RUN="1").stdout
        assert stand_ins.calls == []
        subcommands = [line.split()[4] for line in printed.splitlines() if line.startswith("gcloud")]
        assert subcommands == ["list", "create", "list", "scp", "ssh", "ssh"]

    @pytest.mark.parametrize("arguments", [[], ["start"], ["run"]])
    def test_usage(self, stand_ins, arguments):
        done = self.tpu_vm(stand_ins, *arguments)
        assert done.returncode == 2
        assert "scripts/tpu_vm.sh run ARGUMENTS" in done.stderr
        assert stand_ins.calls == []

    def test_required_settings(self, stand_ins):
        del stand_ins.environment["ZONE"]
        assert "ZONE: must be a zone" in self.tpu_vm(stand_ins, "create").stderr
        assert stand_ins.calls == []
