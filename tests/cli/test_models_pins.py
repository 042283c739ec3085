import json

from cortex.cli.exit_codes import Exit
from tests.cli.conftest import Run
from tests.cli.gateway import FakeGateway, error, model
from tests.cli.test_status import NASTY, assert_harmless

CATALOGUE = {
    "object": "list",
    "data": [
        {
            "id": "acme/small",
            "status": "loaded",
            "locations": [
                {"node": "gpu-a", "status": "loaded", "pinned": True, "in_flight": 2},
                {"node": "gpu-b", "status": "unloaded", "pinned": False, "in_flight": 0},
            ],
        },
        {"id": "small", "parent": "acme/small", "status": "loaded"},
        {"id": "bare"},
        {"no": "id"},
        "nonsense",
        {"id": "odd", "locations": [5, {"node": None}], "status": 7},
    ],
}


def test_the_catalogue(run: Run, gateway: FakeGateway):
    gateway.answers["/v1/models"] = CATALOGUE
    ran = run("models")
    assert ran.code == 0
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in ran.lines[1:]}
    assert rows["acme/small"] == ["loaded", "2", "gpu-a* loaded, gpu-b unloaded"]
    assert rows["small"] == ["loaded", "–", "alias of acme/small"]
    assert rows["bare"] == ["–", "–", "–"]
    assert "odd" in rows
    assert json.loads(run("models", "--json").out) == CATALOGUE


def test_models_tell_what_they_can_do_where_anybody_knows(
    gateway: FakeGateway, run: Run
) -> None:
    entry = {"id": "a", "status": "loaded", "locations": []}
    known = {"context_length": 131072, "modalities": ["chat", "vision"]}
    gateway.answers["/v1/models"] = {"data": [entry, entry | {"id": "b"} | known]}
    head, *rows = [" ".join(line.split()) for line in run("models").out.splitlines() if line]
    assert head.lower().split() == ["model", "status", "in-flight", "context", "for", "on"]
    assert any("131,072 chat,vision" in row for row in rows)


def test_hostile_names(run: Run, gateway: FakeGateway):
    entry = {"id": NASTY, "status": NASTY, "parent": NASTY, "locations": [{"node": NASTY}]}
    gateway.answers["/v1/models"] = {"data": [entry]}
    for argv in (["models"], ["models", "--json"]):
        out = run(*argv).out
        assert "\x1b" not in out
        assert_harmless(out)


def test_no_catalogue(run: Run, gateway: FakeGateway):
    gateway.answers["/v1/models"] = {"models": []}
    assert "no list of models" in run("models").err


def test_pin_and_unpin(run: Run, gateway: FakeGateway):
    copies = [model("acme/small", "gpu-a", pinned=True), model("acme/small", "gpu-b")]
    gateway.answers["/cortex/v1/models/pin"] = {"models": copies}
    gateway.answers["/cortex/v1/models/unpin"] = {"models": copies[1:]}
    ran = run("pin", "acme/small", "--node", "gpu-a")
    assert ran.lines == [
        "pinned acme/small on gpu-a",
        "  gpu-a: loaded, pinned",
        "  gpu-b: loaded",
    ]
    assert gateway.requests[-1][0::3] == ("POST", {"model": "acme/small", "node": "gpu-a"})
    ran = run("unpin", "acme/small")
    assert ran.lines == ["unpinned acme/small", "  gpu-b: loaded"]
    assert gateway.requests[-1][3] == {"model": "acme/small"}
    assert json.loads(run("pin", "acme/small", "--json").out)["models"] == copies


def test_an_unpin_that_leaves_another_pin_says_so(run: Run, gateway: FakeGateway):
    copies = [model("acme/small", "gpu-a", pinned=True), model("acme/small", "gpu-b")]
    gateway.answers["/cortex/v1/models/unpin"] = {"models": copies}
    assert "another pin holds it" in run("unpin", "acme/small").out
    assert "another pin holds it" in run("unpin", "acme/small", "--node", "gpu-a").out
    assert "another pin" not in run("unpin", "acme/small", "--node", "gpu-b").out


def test_a_pin_that_is_refused(run: Run, gateway: FakeGateway):
    refusal = 404, error("no node lists 'nope'", "model_not_found")
    gateway.answers["/cortex/v1/models/pin"] = lambda _query, _body: refusal
    ran = run("pin", "nope")
    assert ran.code == Exit.FAILURE
    assert "no node lists 'nope' [model_not_found]" in ran.err
