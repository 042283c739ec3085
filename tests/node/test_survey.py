"""What one look at a node tells, whatever answers there."""

import json
import time
from email.utils import formatdate

import pytest

from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import NOTHING_LISTED, ReportedStatus
from cortex.core.survey import Survey, Trouble
from cortex.devnode.scripted import ScriptedNode
from cortex.node.client import NodeClient
from cortex.node.survey import survey
from tests.node.rawnode import Answer, RawNode, hang_up, saying, silence, whole
from tests.running import free_port

LISTED = json.dumps({"data": [{"id": "m1", "created": 1, "status": "loaded"}]}).encode()


async def look(url: str, timeout_s: float = 5.0) -> Survey:
    client = NodeClient(NodeName("n0"), url, connect_timeout_s=1.0)
    try:
        return await survey(client, timeout_s=timeout_s)
    finally:
        await client.close()


async def seen(listing: Answer, info: Answer | None = None) -> Survey:
    routes = {"/v1/models": listing} | ({"/v1/system/info": info} if info else {})
    async with RawNode(routes=routes) as node:
        return await look(node.url, timeout_s=0.5)


async def test_a_node():
    node = ScriptedNode(["a", "b"], unloaded=["b"], info_delay_s=0.0, vram_total_mib=4096)
    async with node:
        found = await look(node.url)
    assert found.trouble is None
    assert found.listing.models == {
        ModelId("a"): ReportedStatus.LOADED,
        ModelId("b"): ReportedStatus.UNLOADED,
    }
    assert found.info is not None
    assert found.info.version == "0.9.2"
    assert found.info.vram_total_mib == 4096
    assert len(found.info.accelerators) == 1
    assert found.skew_s == 0.0
    assert 0 < found.answer_s < 5


async def test_nobody_there():
    found = await look(f"http://127.0.0.1:{free_port()}")
    assert (found.trouble, found.said) == (Trouble.UNREACHABLE, "Connection refused")
    assert found.listing is NOTHING_LISTED


@pytest.mark.parametrize(
    ("given", "trouble", "said"),
    [
        (silence, Trouble.SILENT, "no answer within 0.5 s"),
        (hang_up, Trouble.UNREACHABLE, "closed"),
        (saying(whole(b"", "401 Unauthorized")), Trouble.KEY, "401"),
        (saying(whole(b"", "404 Not Found")), Trouble.STRANGE, "HTTP 404"),
        (saying(whole(b"{}")), Trouble.STRANGE, "unexpected answer: data"),
        (saying(whole(b"<html>")), Trouble.STRANGE, "unexpected answer"),
        (saying(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), Trouble.STRANGE, ""),
        (saying(whole(LISTED, Server="cortex")), Trouble.GATEWAY, "gateway"),
    ],
)
async def test_what_is_no_node(given: Answer, trouble: Trouble, said: str):
    found = await seen(given)
    assert found.trouble is trouble
    assert said in found.said
    assert "n0" not in found.said


@pytest.mark.parametrize(
    ("ahead_s", "least_s", "most_s"),
    [(0, 0, 0), (3600, 3598, 3601), (-3600, -3601, -3598)],
)
async def test_a_clock_that_is_wrong(ahead_s: float, least_s: float, most_s: float):
    date = formatdate(time.time() + ahead_s, usegmt=True)
    found = await seen(saying(whole(LISTED, Date=date)))
    assert found.skew_s is not None
    assert least_s <= found.skew_s <= most_s


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 30 Nov 2026 25:61:00 GMT"])
async def test_a_node_that_does_not_say_the_time(date: str):
    found = await seen(saying(whole(LISTED, **({"Date": date} if date else {}))))
    assert found.trouble is None
    assert found.skew_s is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [(silence, "no answer within"), (saying(whole(b"", "500 Oops")), "HTTP 500")],
)
async def test_a_node_that_lists_and_tells_nothing_else(given: Answer, reason: str):
    found = await seen(saying(whole(LISTED)), given)
    assert found.trouble is None
    assert found.info is None
    assert reason in found.no_info_reason
