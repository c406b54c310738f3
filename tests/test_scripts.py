"""The shell scripts: linted, and run with stand-ins for gcloud, srun, scontrol and python that record and obey."""

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
    """Executables that take the place of others; `calls` are their argument lists."""

    def __init__(self, directory: Path):
        self.directory = directory
        (directory / "bin").mkdir()
        # Nothing else of a person's environment, which may hold the scripts' settings.
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
        """One that exits with these codes, one after the other."""
        (self.directory / "codes").write_text("".join(f"{code}\n" for code in codes))
        self.add(name, 'code=$(head -n 1 "$HERE/codes"); sed -i 1d "$HERE/codes"; exit "$code"')

    def add_listening(self, name: str, code: int) -> None:
        """One that notes signals in the file `signals`, and exits a moment after the first."""
        self.add(
            name,
            """for name in TERM INT; do trap "echo $name >>'$HERE/signals'; asked=yes" $name; done
            touch "$HERE/listens"
            while [[ ! ${asked-} ]]; do sleep 0.02; done
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
        """Starts it in a process group of its own, as a terminal would."""
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

    def wait_until_it_listens(self) -> None:
        self.wait_for((self.directory / "listens").exists)


@pytest.fixture
def stand_ins(tmp_path):
    return StandIns(tmp_path)


def end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=10)
    return process.returncode


def test_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "pip install -e '.[dev]' brings it"
    checked = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_is_bash_and_can_be_run(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK)


class TestRequeue:
    def test_runs_the_line_again_on_75(self, stand_ins):
        stand_ins.add_exits("python", 75, 75, 0)
        done = stand_ins.run(REQUEUE, "python", *LAUNCH, REQUEUE_SECONDS="0.1")
        assert done.returncode == 0
        assert stand_ins.calls == [["python", *LAUNCH]] * 3
        assert done.stderr.count("exit code 75; again in 0.1 s") == 2

    @pytest.mark.parametrize("code", [0, 1, 2, 130, 137])
    def test_returns_every_other_code(self, stand_ins, code):
        stand_ins.add_exits("python", code)
        assert stand_ins.run(REQUEUE, "python").returncode == code
        assert len(stand_ins.calls) == 1

    @pytest.mark.parametrize(
        ("sent", "heard", "code"), [(TERM, "TERM", 75), (TERM, "TERM", 0), (INT, "INT", 130), (HUP, "TERM", 75)]
    )
    def test_passes_a_signal_on_and_starts_nothing_anew(self, stand_ins, sent, heard, code):
        stand_ins.add_listening("python", code)
        process = stand_ins.start(REQUEUE, "python")
        stand_ins.wait_until_it_listens()
        # To the group, as Ctrl-C is sent. The command hears of it once: the second signal would end it unsaved.
        os.killpg(process.pid, sent)
        assert end(process) == code
        assert stand_ins.signals == [heard]
        assert len(stand_ins.calls) == 1

    def test_the_command_does_not_wait_for_the_keyboard(self, stand_ins):
        # As ssh does, which a terminal would stop for it.
        process = stand_ins.start(REQUEUE, "cat")
        assert process.wait(timeout=10) == 0
        process.communicate()

    @pytest.mark.parametrize("sent", [TERM, INT])
    def test_a_signal_in_the_pause_ends_it(self, stand_ins, sent):
        stand_ins.add_exits("python", 75, 0)
        process = stand_ins.start(REQUEUE, "python", REQUEUE_SECONDS="20")
        assert "again in 20 s" in process.stderr.readline()
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
        # It is over, whatever it left behind, and another may come.
        assert stand_ins.run(DETACH, "python", "other.py").returncode == 3
        assert stand_ins.calls[1] == ["python", "other.py"]

    def test_outlives_its_terminal_and_is_followed_again(self, stand_ins):
        stand_ins.add("python", "echo begun; until [[ -e $HERE/go ]]; do sleep 0.02; done; echo done; exit 75")
        first = stand_ins.start(DETACH, "python", *LAUNCH)
        assert first.stdout.readline() == "begun\n"
        other = stand_ins.run(DETACH, "python", "other.py")
        assert other.returncode == 2
        assert "another command runs here: python launch.py" in other.stderr
        for sent in (INT, HUP, KILL):
            os.killpg(first.pid, sent)
        end(first)
        second = stand_ins.start(DETACH, "python", *LAUNCH)
        assert second.stdout.readline() == "begun\n"
        (stand_ins.directory / "go").touch()
        assert second.stdout.readline() == "done\n"
        assert end(second) == 75
        assert stand_ins.calls == [["python", *LAUNCH]]

    def test_stop(self, stand_ins):
        stand_ins.add_listening("python", 75)
        process = stand_ins.start(DETACH, "python")
        stand_ins.wait_until_it_listens()
        assert stand_ins.run(DETACH, "--stop").returncode == 0
        assert end(process) == 143  # not 75, which would start it again
        assert stand_ins.signals == ["TERM"]
        assert "nothing runs here" in stand_ins.run(DETACH, "--stop").stderr
        assert stand_ins.run(DETACH, "true").returncode == 0

    def test_a_machine_that_shuts_down(self, stand_ins):
        stand_ins.add_listening("python", 75)
        process = stand_ins.start(DETACH, "python")
        stand_ins.wait_until_it_listens()
        # Every process gets the signals, and the command no second one.
        for sent in (TERM, HUP):
            os.killpg(self.wrapper(stand_ins), sent)
        assert end(process) == 75
        assert stand_ins.signals == ["TERM"]

    def test_killed(self, stand_ins):
        stand_ins.add_listening("python", 0)
        assert stand_ins.run(DETACH, "true").returncode == 0
        process = stand_ins.start(DETACH, "python")
        stand_ins.wait_until_it_listens()
        os.killpg(self.wrapper(stand_ins), KILL)
        assert end(process) == 137


class TestSlurm:
    def submit(self, stand_ins) -> subprocess.Popen[str]:
        """As sbatch runs it: a copy that lies elsewhere, with sbatch's variables."""
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
        return stand_ins.start("bash", str(copy), *LAUNCH[1:], **variables)

    @pytest.mark.parametrize("code", [0, 1, 2, 75, 130, 137])
    def test_only_75_goes_back_into_the_queue(self, stand_ins, code):
        stand_ins.add_exits("python", code)
        assert end(self.submit(stand_ins)) == code
        task = ["python", *LAUNCH]
        assert stand_ins.calls[:2] == [["srun", "--kill-on-bad-exit=0", "--cpus-per-task=8", *task], task]
        assert stand_ins.calls[2:] == ([["scontrol", "requeue", "17"]] if code == 75 else [])

    def test_a_canceled_job_stays_out_of_the_queue(self, stand_ins):
        stand_ins.add_listening("python", 75)
        process = self.submit(stand_ins)
        stand_ins.wait_until_it_listens()
        os.killpg(process.pid, TERM)
        assert end(process) == -TERM
        assert "scontrol" not in [call[0] for call in stand_ins.calls]

    def test_options_reach_sbatch(self):
        lines = Path(SLURM).read_text().splitlines()
        # sbatch reads as far as the first command.
        head = lines[: next(number for number, line in enumerate(lines) if line and not line.startswith("#"))]
        options = [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH")]
        assert len(options) == sum("#SBATCH" in line for line in lines)
        # "B:TERM" would reach the batch shell alone.
        assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(options)


# Two hosts are two directories, each with a home of its own. The VM is there after one look at the queue.
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
    [[ $(<state) == ACTIVE ]] || exit 1 # as gcloud does, whatever the command's code
    exit "$result" ;;
esac"""

# `uv venv` gives a host a python that does what the file `next_HOST` says: a code, or that the VM is taken away.
PYTHON3 = """
if [[ "$*" == *" venv "* ]]; then mkdir -p .venv/bin; cp "$HERE/bin/host_python" .venv/bin/python; fi"""
HOST_PYTHON = """
host=${HOME##*/}; next=$(head -n 1 "$HERE/next_$host"); sed -i 1d "$HERE/next_$host"
if [[ $next == gone ]]; then echo SUSPENDED >"$HERE/state"; exit 255; fi
exit "$next" """


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """With a commit, which the hosts get."""
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

    def hosts_do(self, stand_ins, *of_each_host):
        for host, does in enumerate(of_each_host):
            (stand_ins.directory / f"next_{host}").write_text("".join(f"{what}\n" for what in does))

    def asked(self, stand_ins):
        """What gcloud was asked for."""
        return " ".join(call[4] for call in stand_ins.calls if call[0] == "gcloud")

    def test_from_nothing_to_a_complete_run(self, stand_ins):
        self.hosts_do(stand_ins, [75, 75, 0], [0, 75, 0])
        for command in ("create", "wait", "install"):
            done = self.tpu_vm(stand_ins, command, SETUP="echo mounted >>../setup")
            assert done.returncode == 0, done.stderr
        done = self.tpu_vm(stand_ins, "run", *LAUNCH[1:])
        assert done.returncode == 0
        assert done.stderr.count("again") == 2
        assert [call for call in stand_ins.calls if call[0] == "python"] == [["python", *LAUNCH]] * 6
        assert self.asked(stand_ins) == "create list list scp ssh ssh ssh ssh"
        for host in (stand_ins.directory / "hosts").iterdir():
            assert (host / "setup").read_text() == "mounted\n"
        self.tpu_vm(stand_ins, "delete")
        assert not (stand_ins.directory / "hosts").exists()

    def test_keep_gets_another_vm_when_the_first_is_taken_away(self, stand_ins):
        self.hosts_do(stand_ins, ["gone", 75, 0], [75, 75, 0])
        done = self.tpu_vm(stand_ins, "keep", *LAUNCH[1:], SPOT="1")
        assert done.returncode == 0, done.stderr
        assert [call for call in stand_ins.calls if call[0] == "python"] == [["python", *LAUNCH]] * 6
        new = "create list list ssh scp ssh ssh"  # is it installed? no; install, run
        assert self.asked(stand_ins) == f"list {new} ssh list delete {new} list list ssh ssh"
        assert all(call[-1] == "--spot" for call in stand_ins.calls if call[4:5] == ["create"])

    @pytest.mark.parametrize(("command", "code"), [("run", 1), ("keep", 1), ("keep", 137)])
    def test_other_codes_are_returned(self, stand_ins, command, code):
        for preparation in ("create", "wait", "install"):
            self.tpu_vm(stand_ins, preparation)
        self.hosts_do(stand_ins, [code], [75])
        assert self.tpu_vm(stand_ins, command, "--config=c").returncode == code

    def test_keep_ends_where_nothing_can_be_asked_for(self, stand_ins):
        stand_ins.add("gcloud", "[[ $4 == list ]] || exit 1")
        assert self.tpu_vm(stand_ins, "keep", "--config=c").returncode == 1
        assert self.asked(stand_ins) == "list create"

    def test_keep_lives_without_an_answer(self, stand_ins):
        stand_ins.add("gcloud", '[[ $(wc -l <"$HERE/calls") -gt 5 ]] && exit 0; exit 1')
        done = self.tpu_vm(stand_ins, "keep", "--config=c")
        assert done.stderr.count("again") >= 2

    def test_keep_that_is_asked_to_leave_starts_nothing_anew(self, stand_ins):
        stand_ins.add("gcloud", "case $4 in list) echo ACTIVE ;; *) sleep 0.2; exit 75 ;; esac")
        process = stand_ins.start(stand_ins.environment["tpu_vm"], "keep", "--config=c")
        stand_ins.wait_for(lambda: "ssh" in self.asked(stand_ins))
        process.terminate()
        assert end(process) == -TERM
        before = stand_ins.calls
        time.sleep(0.6)
        assert stand_ins.calls == before

    @pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", ""])
    def test_wait_does_not_wait_for_what_never_comes(self, stand_ins, state):
        (stand_ins.directory / "state").write_text(state)
        done = self.tpu_vm(stand_ins, "wait")
        assert done.returncode == 1
        assert f"vicreg is {state or 'not there'}" in done.stderr

    @pytest.mark.parametrize("command", ["create", "install", "run", "stop", "delete"])
    def test_what_a_dry_run_prints_can_be_pasted(self, stand_ins, command):
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

    def test_a_dry_run_of_keep_shows_every_command(self, stand_ins):
        printed = self.tpu_vm(stand_ins, "keep", "--config=c", DRY_RUN="1").stdout
        assert stand_ins.calls == []
        asked = [line.split()[4] for line in printed.splitlines() if line.startswith("gcloud")]
        assert asked == ["list", "create", "list", "scp", "ssh", "ssh"]

    @pytest.mark.parametrize("arguments", [[], ["start"], ["run"]])
    def test_usage(self, stand_ins, arguments):
        done = self.tpu_vm(stand_ins, *arguments)
        assert done.returncode == 2
        assert "scripts/tpu_vm.sh run ARGUMENTS" in done.stderr
        assert stand_ins.calls == []

    def test_settings_without_a_default(self, stand_ins):
        del stand_ins.environment["ZONE"]
        assert "ZONE: is a zone" in self.tpu_vm(stand_ins, "create").stderr
        assert stand_ins.calls == []
