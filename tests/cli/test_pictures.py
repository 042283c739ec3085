"""What the commands draw on a terminal, left in build/screenshots for people to look at."""

import io
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from tests.cli.pseudo_terminal import PseudoTerminal
from tests.command import ROOT
from tests.e2e.processes import Gateway, Processes, eventually, request
from tests.running import free_ports

SHOTS = ROOT / "build" / "screenshots"
SPINNER = re.compile("[⠁-⣿]")
LLAMA, CODER, QWEN, EMBED = (
    "meta-llama/Llama-3.3-70B",
    "Qwen/Qwen3-Coder-30B",
    "Qwen/Qwen3-8B",
    "BAAI/bge-m3",
)
SIZES = {LLAMA: 26_000, CODER: 17_200, QWEN: 7_800, EMBED: 1_300}
NODES = {
    "gpu-large": ({LLAMA, CODER, EMBED}, {LLAMA, EMBED}, 49_152),
    "gpu-small": ({CODER, QWEN, EMBED}, {QWEN}, 24_576),
}


@pytest.fixture
def fleet(processes: Processes) -> Gateway:
    """Two nodes that answer and one that does not; some requests, and a load under way."""
    listen, metrics, gone = free_ports(3)
    text = f'[gateway]\nlisten = "127.0.0.1:{listen}"\nmetrics_listen = "127.0.0.1:{metrics}"\n'
    text += f'[state]\npath = "{processes.folder / "cortex.db"}"\n'
    text += "[polling]\ninterval_s = 1.0\ntimeout_s = 1.0\n"
    text += "".join(f'[models."{model}"]\nvram_mb = {mib}\n' for model, mib in SIZES.items())
    for name, (listed, loaded, total) in NODES.items():
        url = processes.node(
            *sorted(listed),
            unloaded=tuple(listed - loaded),
            vram_total_mib=total,
            size_mib=SIZES,
            # It goes on as long as pictures are taken.
            load_s=300.0,
            first_token_s=0.1,
            token_interval_s=0.02,
        )
        text += f'[[nodes]]\nname = "{name}"\nendpoint = "{url}"\n'
    text += f'[[nodes]]\nname = "old-desktop"\nendpoint = "http://127.0.0.1:{gone}"\n'
    source = processes.folder / "cortex.toml"
    source.write_text(text)
    gateway = processes.serve_file(source, listen)
    for model in (LLAMA, QWEN, QWEN):
        assert gateway.chat(model, max_tokens=24).status == 200
    asking = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode()))"
    body = json.dumps({"model": CODER, "messages": [{"role": "user", "content": "hi"}]})
    processes.spawn("-c", asking, f"{gateway.url}/v1/chat/completions", body)
    loading = f"{gateway.url}/cortex/v1/status"
    eventually(lambda: bool(request(loading).json["queues"]), "somebody to wait")
    return gateway


@pytest.fixture
def terminal() -> Iterator[list[PseudoTerminal]]:
    opened: list[PseudoTerminal] = []
    yield opened
    for one in opened:
        one.close()


def test_pictures(fleet: Gateway, terminal: list[PseudoTerminal]):
    """Each fits its terminal, says what matters, and is left as a picture."""
    at = ("--endpoint", fleet.url)
    config = ("--config", str(fleet.source))
    commands = {
        ("status", *at): (LLAMA.split("/")[1], "25.4 GiB", "1 waiting", "refused"),
        ("top", "--once", *at): ("gpu-large", "waiting", "loading"),
        ("history", *at): ("ok", QWEN.split("/")[1]),
        ("explain", CODER, *at): ("wait", "a load is under way"),
        ("explain", QWEN, *at): ("serve", "gpu-small"),
        ("models", *at): (EMBED, "loaded"),
        ("doctor", *config): ("old-desktop", "→", "1 error"),
    }
    for columns, (argv, words) in product((80, 120), commands.items()):
        one = PseudoTerminal(*argv, columns=columns, lines=200)
        terminal.append(one)
        assert one.end() == (1 if argv[0] == "doctor" else 0)
        while one._read(0.1):
            pass
        lines = [line for line in one.written.splitlines() if not SPINNER.search(line)]
        plain = [Text.from_ansi(line).plain.rstrip() for line in lines]
        assert max(map(len, plain)) <= columns, argv
        joined = "\n".join(plain)
        for word in words:
            assert word in joined, f"{argv}: no {word!r} in\n{joined}"
        draw(SHOTS / f"terminal-{argv[0]}-{columns}.svg", lines, columns, f"cortex {argv[0]}")


def draw(file: Path, lines: list[str], columns: int, title: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    drawn = console.export_svg(title=title)
    # Nothing is fetched when it is looked at: the reader's own font will do.
    file.write_text(re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", drawn, flags=re.DOTALL))
    assert file.stat().st_size > 1000
