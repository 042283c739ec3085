"""`cortex doctor` in front of real nodes and gateways: what is wrong is found, and nothing is changed."""

import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.command import CORTEX, SOURCE
from tests.e2e.processes import Child, Processes, eventually, request
from tests.running import free_port

CALM = "[polling]\ninterval_s = 2.0\ntimeout_s = 2.0\n"
"""The usual polls of tests contradict themselves."""


def findings(child: Child) -> list[tuple[str, str, str]]:
    """Of `doctor --json`: level, subject and what was said."""
    told = json.loads(child.stdout)
    found = [(f["level"], f["subject"], f["said"]) for f in told["findings"]]
    assert told["errors"] == sum(level == "error" for level, _, _ in found)
    assert told["warnings"] == sum(level == "warn" for level, _, _ in found)
    assert child.process.returncode == (1 if told["errors"] else 0)
    return found


def about(subject: str, found: list[tuple[str, str, str]]) -> list[str]:
    return [f"{level} {said}" for level, of, said in found if of == subject]


def bad(found: list[tuple[str, str, str]]) -> set[str]:
    """The subjects of which something is wrong."""
    return {subject for level, subject, _ in found if level != "ok"}


def test_a_fleet_in_order(processes: Processes):
    gateway = processes.serve(processes.node("m1"), processes.node("m2"), toml=CALM)
    argv = ("doctor", "--config", str(gateway.source), "--json")
    found = findings(processes.cortex(*argv))
    assert bad(found) == set(), found
    subjects = [subject for _, subject, _ in found]
    assert list(dict.fromkeys(subjects)) == [
        "config", "keys", "gateway", "systemd", "state", "disk", "n0", "n1", "models", "time-outs",
    ]  # fmt: skip
    assert about("gateway", found)[0].startswith(f"ok {gateway.url} answers, up ")
    assert (
        "mistral.rs 0.9.2, 24.0 GiB, Scripted GPU, 1 model, 1 loaded" in about("n0", found)[0]
    )


def test_much_that_is_wrong(processes: Processes, tmp_path: Path):
    old = processes.listening(
        "scripted", "--profile", "v0.8.4", "--model", "m1", "--model", "m2"
    )
    cpu = processes.node("m3", cpu_only=True)
    port = free_port()
    toml = (
        '[models.m9]\naliases = ["nine"]\n[aliases]\nsmall = "m3"\n'
        f"{CALM}[limits]\nidle_timeout_s = 4000\n"
    )
    source, listen = processes.write(
        old, cpu, f"http://127.0.0.1:{port}", toml=toml, node_toml='pinned = ["m11"]'
    )
    taken = processes.spawn("-m", "http.server", str(listen), "--bind", "127.0.0.1")
    _until_it_listens(listen)
    before = sorted(tmp_path.iterdir())
    ran = processes.cortex("doctor", "--config", str(source), "--json")
    taken.kill()
    found = findings(ran)
    assert about("address", found) == [f"error another program listens on 127.0.0.1:{listen}"]
    assert about("gateway", found)[0].startswith("error ")
    assert "destroys models on unload" in about("n0", found)[1]
    assert "its device memory is not known" in about("n1", found)[1]
    assert about("n2", found) == [f"error http://127.0.0.1:{port}: Connection refused"]
    said = about("models", found)
    assert "error m11 is pinned on n0, which does not list it" in said
    assert "error m11 is pinned on n1, which does not list it" in said
    assert 'warn [models."m9"] is for m9, which no node lists; n2 may' in said
    assert about("time-outs", found)[0].startswith("warn limits.idle_timeout_s")
    made = set(tmp_path.iterdir()) - set(before)
    assert {file.suffix for file in made} <= {".out", ".err"}


def _until_it_listens(port: int) -> None:
    def listens() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status > 0
        except OSError:
            return False
        finally:
            connection.close()

    eventually(listens, "another program")


def test_sizes_and_times_of_a_gateway_that_does_not_run(processes: Processes):
    node = processes.node("m1", "m2", unloaded=("m2",), load_s=1.2)
    gateway = processes.serve(node, toml=CALM)
    assert gateway.chat("m2").status == 200
    gateway.send(signal.SIGTERM)
    assert gateway.end() == 0
    text = gateway.source.read_text()
    gateway.source.write_text(text + "[limits]\nload_timeout_s = 1.0\n")
    found = findings(processes.cortex("doctor", "--config", str(gateway.source), "--json"))
    assert about("gateway", found) == [f"warn none answers at {gateway.url}"]
    assert about("address", found) == [f"ok 127.0.0.1:{gateway.port} is free"]
    times = about("time-outs", found)
    assert len(times) == 1
    assert times[0].startswith("error m2 took ")
    assert not any("size of m2" in line for line in about("models", found))


def test_a_node_that_is_gone_and_a_model_that_nobody_can_serve(processes: Processes):
    gateway = processes.serve(processes.node("m1"), processes.node("m2"))
    processes.children[1].kill()
    eventually(
        lambda: request(gateway.url + "/health").json["status"] == "impaired",
        "the gateway to see",
    )
    found = findings(processes.cortex("doctor", "--config", str(gateway.source), "--json"))
    assert "error model m2 cannot be served by any node" in about("gateway", found)
    assert about("n1", found)[0].startswith("error http://127.0.0.1:")


def test_keys(processes: Processes):
    toml = '[auth]\nkeys = [{name = "me", key = "secret-of-mine", role = "admin"}]\n'
    gateway = processes.serve(processes.node("m1"), toml=toml + CALM)
    gateway.source.chmod(0o600)
    argv = ("doctor", "--config", str(gateway.source), "--json")
    found = findings(processes.cortex(*argv))
    assert "warn $CORTEX_API_KEY is not set" in about("keys", found)[1]
    assert "refused" in about("gateway", found)[0]
    # It runs all the same: its address is taken by right.
    assert about("address", found) == []
    asked = processes.command(*argv, environ={"CORTEX_API_KEY": "secret-of-mine"})
    asked.end()
    found = findings(asked)
    assert bad(found) == set(), found
    assert about("gateway", found)[0].startswith("ok ")
    assert "secret-of-mine" not in asked.stdout + asked.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gatewya]\n", "gatewya: unknown key"),
        ("= 1", "not valid TOML"),
        (None, "no configuration: looked for"),
    ],
)
def test_a_configuration_that_cannot_be_used(processes: Processes, text: str | None, said: str):
    argv: tuple[str, ...] = ("doctor", "--json")
    if text is not None:
        (processes.folder / "cortex.toml").write_text(text)
    asked = processes.command(*argv, environ={"CORTEX_ENDPOINT": f"127.0.0.1:{free_port()}"})
    asked.end()
    found = findings(asked)
    assert said in about("config", found)[0]
    assert about("config", found)[0].startswith("error ")
    assert [subject for _, subject, _ in found][-1] == "systemd"


def test_a_file_that_is_not_there(processes: Processes):
    asked = processes.cortex("doctor", "--config", "no.toml", "--json")
    assert "cannot be read: No such file" in about("config", findings(asked))[0]


def test_what_this_user_may_not_read(processes: Processes):
    source, _ = processes.write(processes.node("m1"))
    source.chmod(0)
    # Root reads everything, but for these two.
    plain = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    prefix = plain if os.geteuid() == 0 else ()
    argv = (*prefix, *CORTEX, "doctor", "--json", "--config", str(source))
    asked = processes.program(*argv, environ=SOURCE)
    asked.end()
    told: list[dict[str, Any]] = json.loads(asked.stdout)["findings"]
    assert "Permission denied" in told[0]["said"]
    assert told[0]["advice"] == "sudo cortex doctor"
