"""The checks of `cortex doctor` one by one: what each says of which facts."""

import hashlib
import os
import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cortex.adminapi import EventRow, NodeStatus
from cortex.cli.checks import machine, nodes, service, settings
from cortex.cli.checks.finding import Finding, Level
from cortex.cli.checks.models import Seen, models
from cortex.config.schema import Config
from cortex.core.ids import ModelId
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.survey import Survey, Trouble
from cortex.core.versions import what_lacks
from cortex.store.db import prepare
from cortex.store.limits import Limits
from tests.running import free_port

KEY = "cortex_secret"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
GOOD = NodeInfo(version="0.9.2", vram_total_mib=24_576, accelerators=("RTX",))


def config(**sections: Any) -> Config:
    node = {"name": "n0", "endpoint": "http://gpu:1234"}
    return Config.model_validate({"nodes": [node]} | sections)


def survey(*loaded: str, unloaded: Iterable[str] = (), **fields: Any) -> Survey:
    listed = dict.fromkeys(map(ModelId, loaded), ReportedStatus.LOADED)
    listed |= dict.fromkeys(map(ModelId, unloaded), ReportedStatus.UNLOADED)
    listing = Listing(created_at_s=1, models=listed, **fields.pop("listing", {}))
    return Survey(
        **{"listing": listing, "info": GOOD, "answer_s": 0.01, "skew_s": 0.0} | fields
    )


def lines(found: Iterable[Finding]) -> list[str]:
    return [f"{finding.level} {finding.said}" for finding in found]


def bad(found: Iterable[Finding]) -> list[str]:
    return [line for line in lines(found) if not line.startswith("ok ")]


def key(**fields: Any) -> dict[str, Any]:
    return {"name": "me", "key_sha256": DIGEST, "role": "admin"} | fields


@pytest.mark.parametrize(
    ("listen", "keys", "own", "said"),
    [
        (
            "0.0.0.0:8000",
            [],
            "",
            ["warn none: whoever reaches 0.0.0.0:8000 may use every model"],
        ),
        ("[::]:8000", [], "", ["warn none: whoever reaches [::]:8000 may use every model"]),
        ("127.0.0.1:8000", [], "", []),
        ("[::1]:8000", [], "", []),
        ("0.0.0.0:8000", [key()], KEY, []),
        (
            "0.0.0.0:8000",
            [key()],
            "other",
            ["warn $CORTEX_API_KEY is none of the configured keys"],
        ),
        (
            "0.0.0.0:8000",
            [key(role="client")],
            KEY,
            [
                "warn none of 1 may change the fleet or see it",
                "warn $CORTEX_API_KEY is me's, who is no admin",
            ],
        ),
        (
            "0.0.0.0:8000",
            [key()],
            "",
            ["warn $CORTEX_API_KEY is not set: the commands that ask the gateway are refused"],
        ),
    ],
)
def test_keys(listen: str, keys: list[Any], own: str, said: list[str]):
    wanted = config(gateway={"listen": listen}, auth={"keys": keys})
    assert bad(settings.keys(wanted, {"CORTEX_API_KEY": own})) == said


def test_secrets_that_everybody_may_read(tmp_path: Path):
    file = tmp_path / "me.key"
    file.write_text(KEY)
    wanted = config(auth={"keys": [key(key_sha256=None, key_file=str(file))]})
    source = tmp_path / "cortex.toml"
    source.write_text("")
    file.chmod(0o600)
    source.chmod(0o644)
    assert bad(settings.secrets(wanted, source)) == []
    file.chmod(0o644)
    assert bad(settings.secrets(wanted, source)) == [
        f"warn everybody on this machine may read {file}"
    ]
    inline = config(auth={"keys": [key(key_sha256=None, key=KEY)]})
    assert bad(settings.secrets(inline, source)) == [
        f"warn everybody on this machine may read {source}"
    ]


def test_a_certificate():
    day = 86_400.0
    assert bad(settings.certificate(None, 0)) == []
    assert bad(settings.certificate(40 * day, 0)) == []
    assert bad(settings.certificate(3 * day, 0)) == ["warn the certificate expires in 3d00h"]
    assert bad(settings.certificate(0, day)) == ["error the certificate expired 1d00h ago"]


def test_the_defaults_contradict_nothing():
    assert lines(settings.timeouts(config(), {})) == ["ok none contradicts another"]


@pytest.mark.parametrize(
    ("sections", "load_s", "said"),
    [
        ({"polling": {"interval_s": 2}}, 1, "warn polling.timeout_s (4.0s) is above"),
        (
            {"limits": {"idle_timeout_s": 3600}},
            1,
            "warn limits.idle_timeout_s (1h00m) never ends",
        ),
        (
            {"limits": {"max_body_mb": 100}},
            1,
            "warn limits.max_body_mb (100) is above the 50 MiB",
        ),
        (
            {"limits": {"load_timeout_s": 60}},
            60,
            "error m took 1m00s to load, and limits.load_t",
        ),
        (
            {"limits": {"load_timeout_s": 60}},
            50,
            "warn m took 50.0s to load: limits.load_timeout",
        ),
        (
            {"eviction": {"idle_unload_s": 30}},
            31,
            "warn m takes 31.0s to load and is unloaded aft",
        ),
        (
            {"models": {"m": {"idle_unload_s": 30}}},
            31,
            "warn m takes 31.0s to load and is unloade",
        ),
        (
            {"eviction": {"idle_unload_s": 30}, "models": {"m": {"idle_unload_s": "off"}}},
            31,
            "ok none contradicts another",
        ),
        ({"limits": {"load_timeout_s": 60}}, 30, "ok none contradicts another"),
    ],
)
def test_times_that_contradict_each_other(sections: dict[str, Any], load_s: float, said: str):
    (line,) = lines(settings.timeouts(config(**sections), {"m": load_s}))
    assert line.startswith(said)


class TestAddress:
    def test_free_and_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            assert lines(machine.address("address", listen, ours=False)) == [
                f"error another program listens on {listen}"
            ]
            assert lines(machine.address("address", listen, ours=True)) == []
        listen = f"127.0.0.1:{free_port()}"
        assert lines(machine.address("address", listen, ours=False)) == [f"ok {listen} is free"]

    def test_bound_and_not_listened_on_yet(self):
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{bound.getsockname()[1]}"
            assert lines(machine.address("address", listen, ours=False)) == [
                f"ok {listen} is free"
            ]

    @pytest.mark.parametrize("listen", ["192.0.2.1:8000", "no.such.invalid:8000"])
    def test_no_address_of_this_machine(self, listen: str):
        (line,) = lines(machine.address("address", listen, ours=False))
        assert line.startswith(f"error {listen} cannot be listened on: ")


class TestState:
    def test_to_be_made(self, tmp_path: Path):
        found, remembered = machine.state(tmp_path / "a" / "b" / "cortex.db")
        assert lines(found) == [f"ok {tmp_path}/a/b/cortex.db will be made at the first start"]
        assert remembered.residency == ()

    def test_under_a_file(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        found, _ = machine.state(tmp_path / "file" / "cortex.db")
        assert lines(found) == [
            f"error {tmp_path}/file/cortex.db: {tmp_path}/file is no directory"
        ]

    @pytest.mark.parametrize("content", [b"not a database" * 100, b""])
    def test_no_database(self, tmp_path: Path, content: bytes):
        file = tmp_path / "cortex.db"
        file.write_bytes(content)
        found, _ = machine.state(file)
        assert lines(found)[0].startswith(f"error {file}: ")

    def test_of_a_newer_cortex(self, tmp_path: Path):
        file = database(tmp_path)
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA user_version = 1000")
        connection.close()
        found, _ = machine.state(file)
        assert "written by a newer cortex" in lines(found)[0]

    def test_what_is_remembered(self, tmp_path: Path):
        file = database(tmp_path)
        with sqlite3.connect(file) as connection:
            connection.execute(
                "INSERT INTO residency (node, model, status, size_mib, load_s)"
                " VALUES ('n0', 'm', 'loaded', 7000, 12.5)"
            )
        connection.close()
        found, remembered = machine.state(file)
        assert bad(found) == []
        (row,) = remembered.residency
        assert (row.model, row.size_mib, row.load_s) == ("m", 7000, 12.5)

    @pytest.mark.skipif(os.geteuid() != 0, reason="a file is given to another user by root")
    def test_of_another_user(self, tmp_path: Path):
        file = database(tmp_path)
        os.chown(file, 1234, 1234)
        (line,) = bad(machine.state(file)[0])
        assert "as after a start by root" in line


def database(folder: Path) -> Path:
    file = folder / "cortex.db"
    os.close(prepare(file, Limits()).claim)
    return file


@pytest.mark.parametrize(
    ("free", "level"), [(1 << 20, Level.ERROR), (100 << 20, Level.WARN), (2 << 30, Level.OK)]
)
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: Level):
    seen: list[Path] = []

    def usage(folder: Path) -> Any:
        seen.append(folder)
        return type("Usage", (), {"free": free})

    monkeypatch.setattr("shutil.disk_usage", usage)
    (found,) = machine.disk(tmp_path / "not" / "yet" / "cortex.db")
    assert found.level is level
    assert seen == [tmp_path]


def test_open_files():
    assert bad(machine.files(100_000, 1500)) == []
    assert bad(machine.files(1024, 1500)) == [
        "warn 1024 may be open at once; so many requests as are allowed need 1500"
    ]


ACTIVE = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "NRestarts": "0",
    "NeedDaemonReload": "no",
    "LimitNOFILE": "65536",
}


@pytest.mark.parametrize(
    ("said", "answers", "found"),
    [
        ({}, True, ["ok does not run this machine"]),
        (
            {"LoadState": "not-found"},
            True,
            ["ok no cortex.service here; the packages have one"],
        ),
        (ACTIVE, True, ["ok cortex.service is active"]),
        (
            ACTIVE | {"UnitFileState": "disabled"},
            True,
            ["warn cortex.service is active, and will not be after a boot"],
        ),
        (
            ACTIVE | {"ActiveState": "failed", "Result": "exit-code"},
            False,
            ["error cortex.service failed: exit-code"],
        ),
        (
            ACTIVE
            | {"ActiveState": "activating", "SubState": "auto-restart", "Result": "signal"},
            False,
            ["error cortex.service failed: signal"],
        ),
        (ACTIVE | {"ActiveState": "inactive"}, False, ["warn cortex.service is inactive"]),
        (
            ACTIVE | {"ActiveState": "inactive"},
            True,
            [
                "warn cortex.service is inactive: the gateway that answers was started by hand",
            ],
        ),
        (
            ACTIVE | {"NRestarts": "3", "NeedDaemonReload": "yes"},
            True,
            [
                "ok cortex.service is active",
                "warn cortex.service was changed since it was read",
                "warn cortex.service ended by itself and was started again; restarts so far: 3",
            ],
        ),
    ],
)
def test_the_unit(said: dict[str, str], answers: bool, found: list[str]):
    assert lines(service.service(said, answers=answers)) == found


def test_systemd_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert service.unit() == {}
    program = tmp_path / "systemctl"
    program.write_text(
        '#!/bin/sh\necho "ActiveState=active"\necho "Result=a=b"\necho "$@" >&2\n'
    )
    program.chmod(0o755)
    assert service.unit() == {"ActiveState": "active", "Result": "a=b"}
    program.write_text("#!/bin/sh\necho LoadState=loaded\nexit 1\n")
    assert service.unit() == {}
    assert service.state_directory(ACTIVE) is None
    assert service.state_directory(ACTIVE | {"StateDirectory": "cortex"}) == "/var/lib/cortex"
    assert service.open_files(ACTIVE) == 65_536
    assert service.open_files({"LoadState": "not-found", "LimitNOFILE": "1024"}) is None
    assert service.open_files(ACTIVE | {"LimitNOFILE": "infinity"}) is None


def of_node(seen: Survey, running: NodeStatus | None = None, **wanted: Any) -> list[str]:
    whole = config()
    given = whole.nodes[0].model_copy(update=wanted)
    return lines(nodes.node(given, seen, running, whole))


class TestNode:
    def test_a_good_one(self):
        assert of_node(survey("a", unloaded=["b"])) == [
            "ok http://gpu:1234 answers in 10ms, mistral.rs 0.9.2, 24.0 GiB, RTX, 2 models, 1 loaded"
        ]

    @pytest.mark.parametrize("trouble", list(Trouble))
    def test_one_that_told_nothing(self, trouble: Trouble):
        (found,) = nodes.node(
            config().nodes[0], Survey(trouble=trouble, said="gone\x1b"), None, config()
        )
        assert found.level is Level.ERROR
        assert found.said == "http://gpu:1234: gone\\x1b"
        assert found.advice

    @pytest.mark.parametrize(
        ("seen", "wanted", "said"),
        [
            (survey("a", answer_s=3.0), {}, "warn took 3.0s to list its models"),
            (survey(), {}, "warn lists no model"),
            (survey("a", listing={"remark": "odd"}), {}, "warn odd"),
            (survey("a", listing={"duplicated": {ModelId("a")}}), {}, "warn lists a twice"),
            (survey("a", skew_s=61.0), {}, "warn its clock is 1m01s ahead of this one"),
            (survey("a", skew_s=-7200.0), {}, "warn its clock is 2h00m behind this one"),
            (
                survey("a", info=None, no_info_reason="HTTP 500"),
                {"vram_mb": 1},
                "warn does not say what it is: HTTP 500",
            ),
            (
                survey("a", info=NodeInfo(version="0.9.0", vram_total_mib=1)),
                {},
                "warn mistral.rs 0.9.0 destroys models on unload; 0.9.1 is the first that does",
            ),
            (
                survey("a", info=NodeInfo(version="0.9.0", vram_total_mib=1)),
                {"lifecycle": "on"},
                "error mistral.rs 0.9.0 destroys models on unload; 0.9.1 is the first that does",
            ),
            (
                survey("a", info=NodeInfo(version="0.9.2")),
                {},
                "warn its device memory is not known: it reports none, and no vram_mb is set",
            ),
            (
                survey("a"),
                {"vram_mb": 30_000},
                "warn vram_mb is 30000, and it reports 24576 MiB",
            ),
        ],
    )
    def test_what_is_wrong_with_it(self, seen: Survey, wanted: dict[str, Any], said: str):
        (line,) = [line for line in of_node(seen, **wanted) if not line.startswith("ok ")]
        assert line.startswith(said)

    def test_what_is_meant_is_not_wrong(self):
        old = NodeInfo(version="0.9.0", vram_total_mib=1)
        assert len(of_node(survey("a", info=old), lifecycle="off")) == 1
        assert len(of_node(survey("a", info=NodeInfo(version="0.9.2")), vram_mb=1)) == 1
        assert len(of_node(survey("a"), vram_mb=20_000)) == 1
        assert len(of_node(survey("a", skew_s=None))) == 1

    @pytest.mark.parametrize(
        ("running", "said"),
        [
            (
                {"health": "down", "reason": "refused"},
                "error answers here, and the gateway has it",
            ),
            ({"draining": True, "drains": ["request"]}, "warn is out of service (request)"),
            ({"may_unload": False, "no_unload_reason": "odd"}, "warn does not unload: odd"),
            (
                {"defrag_due": True, "defrag_reason": "50 cycles"},
                "warn wants a restart (50 cycles), and no agent is there to do it",
            ),
        ],
    )
    def test_what_the_gateway_has_against_it(self, running: dict[str, Any], said: str):
        status = NodeStatus(name="n0", endpoint="x", **{"health": "up"} | running)
        (line,) = [line for line in of_node(survey("a"), status) if not line.startswith("ok ")]
        assert line.startswith(said)

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("unloaded", "ok unloads work: the last was of m 2h ago"),
            ("unload_failed", "warn the last unload, of m 2h ago, failed: no answer"),
        ],
    )
    def test_whether_unloads_work(self, kind: str, said: str):
        row = EventRow(id=1, at_ms=1, kind=kind, reason="no answer", node="n0", model="m")
        assert lines(nodes.unloads("n0", row, 7_200_001)) == [said]
        assert lines(nodes.unloads("n0", None, 7_200_000)) == []

    def test_what_an_old_version_cannot_do(self):
        old = survey("a", info=NodeInfo(version="0.7.0", vram_total_mib=1))
        said = of_node(old, lifecycle="off")
        assert said[1].startswith(
            "warn mistral.rs 0.7.0 never ends a stream that an unload cuts"
        )
        assert what_lacks("0.8.0") == what_lacks(None) == what_lacks("odd") == []

    def test_who_took_it_out_can_put_it_back(self):
        advice = {}
        for why in ("request", "defrag"):
            status = NodeStatus(
                name="n0", endpoint="x", health="up", draining=True, drains=[why]
            )
            found = nodes.node(config().nodes[0], survey("a"), status, config())
            advice[why] = [f.advice for f in found if f.level is Level.WARN]
        assert advice == {"request": ["cortex undrain n0"], "defrag": [""]}

    def test_agents(self):
        status = NodeStatus(name="n0", endpoint="x", health="up", agent_age_s=1.5)
        assert of_node(survey("a"), status)[1:] == ["ok its agent reported 1.5s ago"]
        status = NodeStatus(name="n0", endpoint="x", health="up", residue_mib=512)
        assert of_node(survey("a"), status)[1:] == [
            "ok 512 MiB did not come back from unloads",
            "ok no agent: a restart, when it is due, is yours to do",
        ]


def of_models(
    seen: Survey, sizes: dict[str, int] | None = None, **sections: Any
) -> list[tuple[str, str]]:
    found = models(config(**sections), Seen(surveys={"n0": seen}, sizes_mib=sizes or {}))
    return [(f"{f.level} {f.said}", f.advice) for f in found if f.level is not Level.OK]


def with_node(**fields: Any) -> dict[str, Any]:
    return {"nodes": [{"name": "n0", "endpoint": "http://gpu:1234"} | fields]}


class TestModels:
    def test_nothing_to_say(self):
        assert of_models(survey("a")) == []
        sizes = {"a": 1000, "b": 1000}
        assert of_models(survey("a", unloaded=["b"]), sizes, **with_node(pinned=["a"])) == []

    def test_pins(self):
        sizes = {"org/model": 1, "b": 1}
        wanted = with_node(pinned=["org/modle", "b"])
        assert of_models(survey("org/model", unloaded=["b"]), sizes, **wanted) == [
            (
                "error org/modle is pinned on n0, which does not list it",
                "did you mean org/model?",
            ),
            (
                "warn b is pinned on n0 and not loaded there",
                "`cortex explain --node n0 b` says what it waits for",
            ),
        ]

    def test_a_node_that_told_nothing_lacks_no_pin(self):
        gone = Survey(trouble=Trouble.SILENT, said="x")
        assert of_models(gone, **with_node(pinned=["a"])) == []

    def test_names_that_no_node_lists(self):
        wanted = {"models": {"a1": {"aliases": ["x"]}}, "aliases": {"small": "b"}}
        said = of_models(survey("a"), **wanted)
        assert ("warn the alias small is for b, which no node lists", "") in said
        assert ('warn [models."a1"] is for a1, which no node lists', "did you mean a?") in said
        assert len(said) == 2
        gone = Survey(trouble=Trouble.SILENT, said="x")
        assert "which no node lists; n0 may" in of_models(gone, **wanted)[0][0]

    def test_a_model_that_may_run_nowhere(self):
        both = with_node()["nodes"] + [{"name": "n1", "endpoint": "http://other:1"}]
        wanted = config(nodes=both, models={"a": {"nodes": ["n1"]}})
        seen = Seen(surveys={"n0": survey("a"), "n1": survey("b")}, sizes_mib={"a": 1, "b": 1})
        assert bad(models(wanted, seen)) == ["error a may run on n1 only, and is listed by n0"]

    def test_a_model_that_fits_nowhere(self):
        (found,) = of_models(survey("a"), {"a": 30_000})
        assert found[0] == "error a takes 29.3 GiB, and the largest of its nodes has 24.0 GiB"
        unknown = survey("a", info=NodeInfo(version="0.9.2"))
        assert of_models(unknown, {"a": 30_000}) == []
        assert of_models(survey("a"), {"a": 30_000}, **with_node(vram_mb=40_000)) == []

    def test_sizes_that_nobody_knows(self):
        several = survey(*"abcdefg")
        ((said, advice),) = of_models(several, {"a": 1})
        assert said == (
            "warn the size of b, c, d, e, f and 1 more is not known yet: a guess until the first"
            " load"
        )
        assert advice == '[models."b"] vram_mb = … says it now'
        assert of_models(several, **with_node(lifecycle="off")) == []
