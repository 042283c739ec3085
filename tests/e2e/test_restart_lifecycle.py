"""A gateway killed in the middle of a load, an eviction, a restart of a node: the next one goes on."""

import contextlib
import threading
from typing import Any

from tests.e2e.processes import Gateway, Processes, eventually, request

SMALL: dict[str, Any] = {"vram_total_mib": 10_000, "size_mib": 6000}
SIZES = '[models."a"]\nvram_mb = 6000\n[models."b"]\nvram_mb = 6000\n'


def ask_in_background(gateway: Gateway, model: str, **more: Any) -> None:
    """A request whose answer nobody waits for, since its gateway is about to be killed."""

    def ask() -> None:
        with contextlib.suppress(OSError):
            gateway.chat(model, **more)

    threading.Thread(target=ask, daemon=True).start()


def status_of(gateway: Gateway, model: str) -> str:
    return next(str(row["status"]) for row in gateway.models() if row["model"] == model)


def stats(node: str) -> Any:
    return request(node + "/_stats").json


def test_killed_in_the_middle_of_a_load(processes: Processes) -> None:
    node = processes.node("a", unloaded=("a",), load_s=8.0)  # longer than any start takes
    gateway = processes.serve(node)
    ask_in_background(gateway, "a")
    eventually(lambda: stats(node)["loads"] == {"a": 1}, "the load")
    gateway.kill()

    again = processes.serve_file(gateway.source, gateway.port)
    # The node is still at it: it is followed, not asked again, which would poison the model.
    assert status_of(again, "a") == "loading"
    assert again.chat("a", max_tokens=1).status == 200
    assert stats(node)["loads"] == {"a": 1}
    assert status_of(again, "a") == "loaded"


def test_killed_while_a_victim_drains(processes: Processes) -> None:
    node = processes.node("a", "b", unloaded=("b",), token_interval_s=0.02, **SMALL)
    gateway = processes.serve(node, toml=SIZES + "[limits]\ndrain_timeout_s = 60\n")
    stream = gateway.stream("a", max_tokens=2000)
    assert stream.read()
    ask_in_background(gateway, "b")
    # A model in use is drained once somebody has waited long enough for it.
    eventually(lambda: status_of(gateway, "a") == "draining", "the drain", 15)
    gateway.kill()

    again = processes.serve_file(gateway.source, gateway.port)
    # The drain died with the gateway: the victim serves again, and nothing was unloaded.
    assert status_of(again, "a") == "loaded"
    assert again.chat("a", max_tokens=1).status == 200
    assert stats(node)["unload_posts"] == {}
    # And the eviction can be had once more, whole.
    assert again.chat("b", max_tokens=1).status == 200
    assert stats(node)["unload_posts"] == {"a": 1}
    cycles = request(again.url + "/cortex/v1/status").json["nodes"][0]["cycles"]
    assert cycles == 1


def test_killed_between_the_unload_and_the_load(processes: Processes) -> None:
    # The memory comes back late, so the gateway is killed while it waits for that.
    node = processes.node("a", "b", unloaded=("b",), release_delay_s=1.5, **SMALL)
    gateway = processes.serve(node, toml=SIZES)
    ask_in_background(gateway, "b")
    eventually(lambda: stats(node)["unload_posts"] == {"a": 1}, "the unload")
    gateway.kill()

    again = processes.serve_file(gateway.source, gateway.port)
    assert status_of(again, "a") == "unloaded"
    # The memory was still in use when the new gateway read it; it is not the last word.
    eventually(lambda: again.chat("b", max_tokens=1).status == 200, "b", 20)
    assert stats(node)["loads"] == {"b": 1}
    assert stats(node)["unload_posts"] == {"a": 1}


def test_a_drained_node_stays_drained_and_cycles_are_kept(processes: Processes) -> None:
    node, other = processes.node("a"), processes.node("a")
    gateway = processes.serve(node, other)
    unload = {"model": "a", "node": "n0"}
    assert request(gateway.url + "/cortex/v1/models/unload", unload).status == 200
    assert request(gateway.url + "/cortex/v1/nodes/n0/drain", {}).status == 200
    gateway.kill()

    again = processes.serve_file(gateway.source, gateway.port)
    view = request(again.url + "/cortex/v1/status").json["nodes"][0]
    assert (view["drains"], view["cycles"]) == (["request"], 1)
    assert {again.chat("a").headers["x-cortex-node"] for _ in range(4)} == {"n1"}
    assert request(again.url + "/cortex/v1/nodes/n0/undrain", {}).json["draining"] is False
