"""What an administrator does, in order, on a booted machine: install, enable, reload, upgrade, erase.

The dependencies are in the packages here, since the machine is a Debian, whose Python packages are others.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cortex import __version__
from tests.command import ROOT
from tests.packaging.conftest import OLDER, SUITE, Built
from tests.packaging.machine import PACKAGES, Machine, why_not

pytestmark = pytest.mark.timeout(600)

CONFIG = "/etc/cortex/cortex.toml"
KEYS = "/etc/cortex/keys.toml"
API = "http://127.0.0.1:8000"
NODE = """
[Service]
ExecStart=/usr/bin/python3.11 -I -c 'import sys; sys.path.insert(0, "/usr/lib/cortex"); \\
    sys.argv[1:] = ["scripted", "--port", "1234", "--model", "a", "--knobs", sys.argv[1]]; \\
    import runpy; runpy.run_module("cortex.devnode", run_name="__main__")' '{"info_delay_s": 0, "token_interval_s": 0.05}'
"""
ASKED = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
WATCHED = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\nRestartSec=100ms\n"


@pytest.fixture(scope="module")
def machine(
    built: Built, older: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    if reason := why_not():
        pytest.skip(f"no machine to install on: {reason}")
    for tool in ("dnf", "createrepo_c"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("packages")
    base = tmp_path_factory.mktemp("base")
    spec = Path(__file__).with_name("debian-base.spec")
    subprocess.run(
        ["rpmbuild", "--define", f"_topdir {base}", "-bb", spec],
        capture_output=True,
        check=True,
    )
    for name, top in (("old", older), ("new", built.bundled)):
        repository = folder / name
        repository.mkdir()
        for package in [*top.rglob("RPMS/*/*.rpm"), *base.rglob("RPMS/*/*.rpm")]:
            shutil.copy(package, repository)
        subprocess.run(["createrepo_c", "--quiet", repository], check=True)
    with Machine(folder) as booted:
        booted.file("/etc/systemd/system/mistralrs.service").write_text(NODE)
        booted.run("systemctl", "daemon-reload")
        yield booted


def dnf(machine: Machine, repository: str, *argv: str) -> str:
    return machine.run(
        *("dnf", "--quiet", "--assumeyes", "--nogpgcheck", "--releasever=0"),
        *(
            f"--repofrompath={repository},file://{PACKAGES}/{repository}",
            f"--repo={repository}",
        ),
        *("--setopt=install_weak_deps=0", *argv),
        timeout_s=120,
    )


def shown(machine: Machine, name: str, unit: str = "cortex") -> str:
    return machine.run("systemctl", "show", "--value", "-p", name, unit).strip()


def journal(machine: Machine, *options: str) -> list[str]:
    """What the unit has said so far, by line.

    Not by its invocation: the journal cannot tell that of a process that ended before it looked.
    """
    machine.run("journalctl", "--sync")
    told = machine.run("journalctl", "--no-pager", "-o", "cat", "-u", "cortex", *options)
    return told.splitlines()


def rows(machine: Machine) -> set[str]:
    """The requests that the gateway's history has, by id."""
    said = json.loads(machine.run("cortex", "history", "--json"))
    return {row["request_id"] for row in said["rows"]}


def chat(machine: Machine, model: str, *options: str) -> str:
    body = json.dumps(ASKED | {"model": model, "max_tokens": 3})
    curl = ("curl", "-s", "-m", "30", *options)
    return machine.run(*curl, "-d", body, f"{API}/v1/chat/completions")


def test_install(machine: Machine) -> None:
    dnf(machine, "old", "install", "cortex")
    assert machine.run("cortex", "--version").startswith(f"cortex {OLDER} (revision ")
    assert machine.run("stat", "-c", "%U:%G %a", CONFIG).strip() == "root:cortex 640"
    assert machine.run("systemctl", "is-enabled", "cortex", check=False).strip() == "disabled"
    machine.run("cortex", "check-config")
    assert "cortex-status" in machine.run("man", "-w", "cortex-status")
    for unit in ("cortex.service", "cortex.socket"):
        said = machine.run(
            "systemd-analyze", "verify", "--man=no", f"/usr/lib/systemd/system/{unit}"
        )
        assert said == ""


def test_enable_now(machine: Machine) -> None:
    machine.run("systemctl", "start", "mistralrs")
    began_s = time.monotonic()
    machine.run("systemctl", "enable", "--now", "cortex")
    assert time.monotonic() - began_s < 10
    assert shown(machine, "ActiveState") == "active"
    machine.until("1 of 1 nodes up", "systemctl", "show", "-p", "StatusText", "cortex")
    print(machine.run("systemctl", "status", "--no-pager", "cortex"))


def test_requests_and_the_commands_of_a_plain_user(machine: Machine) -> None:
    assert '"choices"' in chat(machine, "a")
    said = machine.run("setpriv", "--reuid=nobody", "--clear-groups", "cortex", "status")
    assert "local" in said
    assert "Permission" not in said
    machine.until('"route": "chat"', "cortex", "history", "--json")
    metrics = machine.run("curl", "-s", "http://127.0.0.1:9100/metrics")
    assert 'cortex_node_up{node="local"} 1.0' in metrics
    assert "process_resident_memory_bytes" in metrics


def doctor(machine: Machine) -> dict[str, list[str]]:
    """What `cortex doctor` says, by what it is about."""
    told = json.loads(machine.run("cortex", "doctor", "--json", check=False))
    said: dict[str, list[str]] = {}
    for finding in told["findings"]:
        said.setdefault(finding["subject"], []).append(f"{finding['level']} {finding['said']}")
    return said


def test_doctor(machine: Machine) -> None:
    said = doctor(machine)
    assert said["systemd"] == ["ok cortex.service is active"]
    assert said["state"][0].startswith("ok /var/lib/cortex/cortex.db, ")
    assert said["local"][0].startswith("ok http://127.0.0.1:1234 answers")
    errors = [line for lines in said.values() for line in lines if line.startswith("error")]
    assert errors == []
    asked = ("setpriv", "--reuid=nobody", "--clear-groups", "cortex", "doctor")
    assert "sudo cortex doctor" in machine.run(*asked, check=False)
    machine.run("systemctl", "disable", "--now", "cortex")
    said = doctor(machine)
    assert said["systemd"] == ["warn cortex.service is inactive"]
    assert said["state"][0].startswith("ok /var/lib/cortex/cortex.db, ")
    machine.run("systemctl", "start", "cortex")
    assert doctor(machine)["systemd"] == [
        "warn cortex.service is active, and will not be after a boot"
    ]
    machine.run("systemctl", "enable", "cortex")


def test_reload(machine: Machine) -> None:
    pid = shown(machine, "MainPID")
    config = machine.file(CONFIG)
    config.write_text(config.read_text() + '\n[aliases]\nshort = "a"\n')
    machine.run("systemctl", "reload", "cortex")
    assert '"choices"' in chat(machine, "short")
    good = config.read_text()
    config.write_text(good + "\n[oops]\n")
    machine.run("systemctl", "reload", "cortex", check=False)
    warnings = ("journalctl", "--no-pager", "-u", "cortex", "-p", "warning")
    machine.until("oops: unknown key", *warnings)
    assert '"message": "listening"' not in machine.run(*warnings)
    assert '"choices"' in chat(machine, "short")
    config.write_text(good)
    machine.run("systemctl", "reload", "cortex")
    assert shown(machine, "MainPID") == pid


def test_keys(machine: Machine) -> None:
    """From an open gateway to a closed one, and back when the file is gone."""
    key = re.search(
        r"^cortex_\S+", machine.run("cortex", "keys", "add", "laptop"), re.MULTILINE
    )
    assert key is not None
    assert machine.run("stat", "-c", "%U:%G %a", KEYS).strip() == "root:cortex 640"
    assert '"choices"' in chat(machine, "a")
    machine.run("systemctl", "reload", "cortex")
    assert "invalid_api_key" in chat(machine, "a")
    assert '"choices"' in chat(machine, "a", "-H", f"x-api-key: {key[0]}")
    assert "laptop" in machine.run("cortex", "keys", "list")
    machine.run("cortex", "keys", "revoke", "laptop")
    machine.run("systemctl", "reload", "cortex")
    assert "invalid_api_key" in chat(machine, "a", "-H", f"x-api-key: {key[0]}")
    machine.file(KEYS).unlink()
    machine.run("systemctl", "reload", "cortex")
    assert '"choices"' in chat(machine, "a")


def test_a_killed_process_comes_back_with_its_history(machine: Machine) -> None:
    machine.run("systemctl", "kill", "--signal=KILL", "cortex")
    machine.until("1\n", "systemctl", "show", "--value", "-p", "NRestarts", "cortex")
    machine.until("1 of 1 nodes up", "systemctl", "show", "-p", "StatusText", "cortex")
    assert '"route": "chat"' in machine.run("cortex", "history", "--json")
    assert "warn cortex.service ended by itself" in doctor(machine)["systemd"][-1]


def test_a_process_that_stands_still_is_ended_by_the_watchdog(machine: Machine) -> None:
    back = drop_in(machine, WATCHED)
    machine.run("systemctl", "restart", "cortex")
    # Fed for longer than the watchdog's time: a healthy process is left alone.
    pid = shown(machine, "MainPID")
    time.sleep(4)
    assert shown(machine, "MainPID") == pid
    machine.run("kill", "-STOP", pid)
    machine.until("Watchdog timeout", "journalctl", "--no-pager", "-u", "cortex", "-o", "cat")
    machine.until("active", "systemctl", "is-active", "cortex")
    machine.until("1 of 1 nodes up", "systemctl", "show", "-p", "StatusText", "cortex")
    assert shown(machine, "MainPID") != pid
    back()


def test_stop_finishes_what_runs_even_where_the_unit_allows_less(machine: Machine) -> None:
    impatient = drop_in(machine, "[Service]\nTimeoutStopSec=1\n")
    body = json.dumps(ASKED | {"stream": True, "max_tokens": 60})
    # 50 ms a token: the stop comes into its middle, and its end after the unit's time.
    asked = f"curl -sN -m 30 -d '{body}' {API}/v1/chat/completions > /tmp/answer"
    machine.run("systemd-run", "--unit=asking", "--collect", "sh", "-c", asked)
    machine.until("data:", "cat", "/tmp/answer")
    machine.run("systemctl", "stop", "cortex")
    assert shown(machine, "Result") == "success"
    assert shown(machine, "ExecMainStatus") == "0"
    machine.until("data: [DONE]", "cat", "/tmp/answer")
    impatient()


def drop_in(machine: Machine, text: str) -> Callable[[], None]:
    """Change the unit; what is returned changes it back."""
    file = machine.file("/etc/systemd/system/cortex.service.d/changed.conf")
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    machine.run("systemctl", "daemon-reload")

    def back() -> None:
        file.unlink()
        machine.run("systemctl", "daemon-reload")

    return back


TAKE = "systemd-run --unit=taker --socket-property=ListenStream=127.0.0.1:8000"


@dataclass(frozen=True)
class Bad:
    """What keeps a stopped gateway from starting, and what is said of it."""

    said: str
    code: int
    shell: str = "true"
    unit: str = ""
    append: str = ""


BAD = {
    "unreadable": Bad(
        f"{CONFIG}: cannot be read: Permission denied", 78, f"chmod 600 {CONFIG}"
    ),
    "its group may write it": Bad("the group cortex may write it", 78, f"chmod 660 {CONFIG}"),
    "of a newer version": Bad("limits.later: unknown key", 78, append="[limits]\nlater = 1\n"),
    "state beyond the unit": Bad(
        "ReadWritePaths=/srv/cortex", 78, append='[state]\npath = "/srv/cortex/cortex.db"\n'
    ),
    "options of an older unit": Bad(
        "unrecognized arguments: --old",
        2,
        unit="[Service]\nExecStart=\nExecStart=/usr/bin/cortex serve --old\n",
    ),
    "port in use": Bad("8000", 71, f"{TAKE} /bin/true"),
}


@pytest.mark.parametrize("which", BAD)
def test_what_cannot_start_says_why_in_one_line(machine: Machine, which: str) -> None:
    bad = BAD[which]
    config = machine.file(CONFIG)
    good = config.read_text()
    config.write_text(good + bad.append)
    # Those that are tried again are not, here.
    back = drop_in(machine, bad.unit + "[Service]\nRestart=no\n" * (bad.code == 71))
    machine.run("sh", "-c", bad.shell)
    before, errors_before = journal(machine), journal(machine, "-p", "err")
    try:
        assert machine.code("systemctl", "start", "cortex") != 0
        assert shown(machine, "ActiveState") == "failed"
        assert shown(machine, "ExecMainStatus") == str(bad.code)
        assert shown(machine, "NRestarts") == "0"
        said = journal(machine)[len(before) :]
        (line,) = [line for line in said if line.startswith("cortex: ")]
        # It is found among the errors.
        assert line in journal(machine, "-p", "err")[len(errors_before) :]
        assert bad.said in line
        assert "Traceback" not in "\n".join(said)
    finally:
        machine.run("systemctl", "stop", "taker.socket", check=False)
        config.write_text(good)
        machine.run("chmod", "0640", CONFIG)
        back()
        machine.run("systemctl", "reset-failed", "cortex", check=False)


def test_a_state_directory_that_is_gone_is_made_again(machine: Machine) -> None:
    machine.run("mv", "/var/lib/cortex", "/var/lib/kept")
    machine.run("systemctl", "start", "cortex")
    made = machine.run("stat", "-c", "%U:%G %a", "/var/lib/cortex").strip()
    assert made == "cortex:cortex 750"
    machine.run("systemctl", "stop", "cortex")
    machine.run("sh", "-c", "rm -r /var/lib/cortex && mv /var/lib/kept /var/lib/cortex")
    # By hand, as somebody who may not make it:
    nobody = ("setpriv", "--reuid=nobody", "--clear-groups")
    machine.run("cp", "--no-preserve=mode", CONFIG, "/tmp/cortex.toml")
    state = "CORTEX_STATE__PATH=/var/lib/none/cortex.db"
    asked = ("env", state, *nobody, "cortex", "serve", "--config", "/tmp/cortex.toml")
    said = machine.run(*asked, check=False)
    assert said.splitlines() == [
        "cortex: /var/lib/none/cortex.db: Permission denied: state cannot be kept there"
    ]
    assert machine.code(*asked) == 78


def test_socket_activation(machine: Machine) -> None:
    machine.run("systemctl", "start", "cortex.socket")
    assert machine.run("systemctl", "is-active", "cortex", check=False).strip() == "inactive"
    assert '"status"' in machine.run("curl", "-s", "-m", "20", f"{API}/health")
    # It answers before it says that it is ready.
    machine.until("ActiveState=active", "systemctl", "show", "-p", "ActiveState", "cortex")
    machine.run("systemctl", "stop", "cortex.socket", "cortex.service")
    machine.run("systemctl", "start", "cortex.service")
    machine.until("1 of 1 nodes up", "systemctl", "show", "-p", "StatusText", "cortex")


def test_upgrade_keeps_the_configuration_and_the_state(machine: Machine) -> None:
    pid = shown(machine, "MainPID")
    edited = machine.file(CONFIG).read_text()
    before = rows(machine)
    assert before
    dnf(machine, "new", "upgrade", "cortex")
    assert machine.run("cortex", "--version").startswith(f"cortex {__version__} (revision ")
    machine.until("1 of 1 nodes up", "systemctl", "show", "-p", "StatusText", "cortex")
    assert shown(machine, "MainPID") != pid
    assert machine.file(CONFIG).read_text() == edited
    assert machine.file(f"{CONFIG}.rpmnew").exists()
    assert '"choices"' in chat(machine, "short")
    assert rows(machine) >= before


def test_the_agent_restarts_the_node_when_told(machine: Machine) -> None:
    if machine.code("systemctl", "start", "polkit") != 0:
        pytest.skip("polkit does not run in this machine")
    config = machine.file(CONFIG)
    config.write_text(config.read_text() + '\n[agent]\ntoken_file = "/etc/cortex/token"\n')
    dnf(machine, "new", "install", "cortex-agent")
    for folder, group in (("cortex", "cortex"), ("cortex-agent", "cortex-agent")):
        machine.file(f"/etc/{folder}/token").write_text("a-secret-of-both\n")
        machine.run("chmod", "0640", f"/etc/{folder}/token")
        machine.run("chgrp", group, f"/etc/{folder}/token")
    machine.run("systemctl", "reload", "cortex")
    machine.file("/etc/cortex-agent/agent.env").write_text(
        f"CORTEX_AGENT_GATEWAY={API}\nCORTEX_AGENT_NODE=local\n"
        "CORTEX_AGENT_UNIT=mistralrs.service\nCORTEX_AGENT_TOKEN_FILE=/etc/cortex-agent/token\n"
    )
    unit = "/usr/lib/systemd/system/cortex-agent.service"
    assert machine.run("systemd-analyze", "verify", "--man=no", unit) == ""
    started = machine.code("systemctl", "enable", "--now", "cortex-agent")
    assert started == 0, machine.run(
        "journalctl", "--no-pager", "-u", "cortex-agent", "-n", "30"
    )
    machine.until('"agent_age_s": 0', "cortex", "status", "--json")
    pid = shown(machine, "MainPID", "mistralrs")
    machine.run("cortex", "defrag", "local")
    machine.until("back in service after", "cortex", "events", "--json", timeout_s=60)
    assert shown(machine, "MainPID", "mistralrs") not in {pid, "0"}
    # The agent's user may do that, and nothing else.
    for verb, name in (("stop", "mistralrs"), ("restart", "cortex"), ("start", "mistralrs")):
        allowed = machine.code(
            *("setpriv", "--reuid=cortex-agent", "--clear-groups"),
            *("systemctl", "--no-ask-password", verb, f"{name}.service"),
        )
        assert allowed != 0


def test_the_suite_of_processes_passes_with_what_is_installed(machine: Machine) -> None:
    said = machine.run(
        *("env", f"--chdir={ROOT}", "CORTEX_UNDER_TEST=/usr/bin/cortex"),
        # The sources are there to be read only.
        *("PYTHONDONTWRITEBYTECODE=1", sys.executable, "-m", "pytest", *SUITE),
        timeout_s=280,
    )
    assert re.search(r"\d+ passed", said)


def test_erase_keeps_the_state(machine: Machine) -> None:
    dnf(machine, "new", "remove", "cortex")
    assert machine.file("/var/lib/cortex/cortex.db").exists()
    assert machine.file(f"{CONFIG}.rpmsave").exists()
    assert not machine.file("/usr/bin/cortex").exists()
    assert "not-found" in shown(machine, "LoadState")
