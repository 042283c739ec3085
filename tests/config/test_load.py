"""One line for every mistake, and nothing but a `ConfigError` whatever the file holds."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.config.load import find, load
from cortex.core.errors import ConfigError

SEED = """
[gateway]
listen = "0.0.0.0:8000"
metrics_listen = "0.0.0.0:9100"
[eviction]
strategy = "lru"                 # lru | priority | forecast
defrag_after_cycles = 50         # 0 = never
[[nodes]]
name = "gpu-large"
endpoint = "http://gpu-large.internal:8080"
vram_mb = 49_152
pinned = ["your-org/large-model"]
"""
NODE = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\n'


def lines(folder: Path, text: str, **environ: str) -> list[str]:
    """The mistakes in `text`, without the file's own path."""
    source = folder / "cortex.toml"
    source.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(source, environ)
    return [line.removeprefix(f"{source}: ") for line in refused.value.lines]


def test_the_seeds_file_works_unchanged(tmp_path: Path) -> None:
    source = tmp_path / "cortex.toml"
    source.write_text(SEED)
    config = load(source, {})
    assert config.gateway.metrics_listen == "0.0.0.0:9100"
    assert config.eviction.defrag_after_cycles == 50
    (node,) = config.nodes
    assert (node.name, node.vram_mb, node.pinned) == (
        "gpu-large",
        49152,
        ("your-org/large-model",),
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[gateway]\nlisen = 1\n", 'gateway.lisen: unknown key, did you mean "listen"?'),
        ("[gatway]\n", 'gatway: unknown key, did you mean "gateway"?'),
        ("[gateway]\nlisten = 8000\n", 'gateway.listen: expected a string, found 8000'),
        ('[gateway]\nlisten = "8000"\n', 'gateway.listen: expected an address like "0.0.0.0:8000", found "8000"'),
        ('[eviction]\nstrategy = "fifo"\n', "eviction.strategy: expected 'lru', 'priority' or 'forecast', found \"fifo\""),
        ("[polling]\ninterval_s = 0\n", "polling.interval_s: expected greater than 0, found 0"),
        ("[polling]\ninterval_s = inf\n", "polling.interval_s: expected a finite number, found inf"),
        ('[[nodes]]\nname = "a"\n', "nodes[0].endpoint: expected, but not there"),
        ('[[nodes]]\nname = "a b"\nendpoint = "http://a:1"\n', 'nodes[0].name: expected letters, digits, dots, dashes and underscores, at most 63, found "a b"'),
        ('[[nodes]]\nname = "a"\nendpoint = "a:1"\n', 'nodes[0].endpoint: expected a URL like "http://gpu-1.internal:8080", found "a:1"'),
        ('[models.a]\nkinds = ["chat", "sing"]\n', "models.a.kinds[1]: expected 'chat', 'vision', 'embeddings', 'image' or 'speech', found \"sing\""),
        ('[models.a]\nkinds = ["sing"]\n', "models.a.kinds[0]: expected 'chat', 'vision', 'embeddings', 'image' or 'speech', found \"sing\""),
        ("[models.a]\nkinds = []\n", "models.a.kinds: expected at least one, found []"),
        ('[nodes.a]\nendpoint = 1\n', "nodes: expected [[nodes]] tables, found {'a': {'endpoint': 1}}"),
        ("nodes = [3]\n", "nodes[0]: expected a table, found 3"),
        ('[auth.keys.a]\nkey = "x"\n', "auth.keys: expected [[auth.keys]] tables"),
        ("limits = 3\n", "limits: expected a table, found 3"),
        ("models = [1]\n", "models: expected a table, found [1]"),
        ('[models.a]\nkinds = "chat"\n', 'models.a.kinds: expected an array, found "chat"'),
        ("[limits]\nmax_queue = 1.5\n", "limits.max_queue: expected a whole number, found 1.5"),
        ('[limits]\nmax_queue = "a"\n', 'limits.max_queue: expected a whole number, found "a"'),
        ('[limits]\nqueue_timeout_s = "x"\n', 'limits.queue_timeout_s: expected a number, found "x"'),
        ("listen = ", "not valid TOML: Invalid value (at end of document)"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_line(tmp_path: Path, text: str, line: str) -> None:
    assert lines(tmp_path, text) == [line]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = '[gateway]\nlisten = "x"\n[limits]\nmax_queue = -1\n[statte]\n'
    assert len(lines(tmp_path, text)) == 3


def test_contradictions_are_mistakes(tmp_path: Path) -> None:
    assert any('"a"' in line for line in lines(tmp_path, NODE + NODE))
    (line,) = lines(
        tmp_path, '[gateway]\nlisten = "127.0.0.1:1"\nmetrics_listen = "127.0.0.1:1"\n' + NODE
    )
    assert line.startswith("gateway.metrics_listen: ")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://gpu-1.internal:8080/v1/", "http://gpu-1.internal:8080"),
        ("HTTP://GPU:80/", "http://gpu:80"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://gpu_1/nodes/a/v1", "https://gpu_1/nodes/a"),
        ("http://10.0.0.1:1", "http://10.0.0.1:1"),
        ("http://bücher.example", "http://bücher.example"),
        ("http://[FE80::1%Eth0]:1", "http://[FE80::1%Eth0]:1"),
        ("unix:/run/mistralrs.sock", "unix:/run/mistralrs.sock"),
    ],
)
def test_an_endpoint_is_a_base_url_however_it_is_written(
    tmp_path: Path, given: str, read: str
) -> None:
    text = f'[[nodes]]\nname = "a"\nendpoint = "{given}"\n'
    path = tmp_path / "cortex.toml"
    path.write_text(text)
    assert load(path, {}).nodes[0].endpoint == read


HOST = 'a URL with the name or address of a host, "[::1]" for IPv6'


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://gpu..internal:8080", HOST),
        (f"http://{'a' * 70}.internal", HOST),
        ("http://-:80", HOST),
        ("http://gpu%zz:80", HOST),
        ("http://ex*mple", HOST),
        ("http://gpu\\u0000x:80", HOST),
        ("http://[gpu]:80", HOST),
        ("http://[::1:8080", 'a URL like "http://gpu-1.internal:8080"'),
        ("http://a:80?x=1", 'a URL like "http://gpu-1.internal:8080"'),
        ("http://a:0", "a URL with a port of 1 to 65535"),
        ("http://a:99999", "a URL with a port of 1 to 65535"),
        ("unix:node.sock", 'a socket by its whole path, "unix:/run/mistralrs.sock"'),
        ("unix://node.sock/x", 'a socket by its whole path, "unix:/run/mistralrs.sock"'),
        (f"unix:/{'a' * 107}", "a socket's path of at most 107 bytes"),
    ],
)
def test_an_endpoint_that_nothing_can_be_reached_at_is_a_mistake(
    tmp_path: Path, endpoint: str, why: str
) -> None:
    (line,) = lines(tmp_path, f'[[nodes]]\nname = "a"\nendpoint = "{endpoint}"\n')
    assert line.startswith(f"nodes[0].endpoint: expected {why}, found ")


def test_two_nodes_do_not_share_a_socket(tmp_path: Path) -> None:
    nodes = [f'[[nodes]]\nname = "{n}"\nendpoint = "unix:/run/n.sock"\n' for n in "ab"]
    (line,) = lines(tmp_path, "".join(nodes))
    assert line.startswith("nodes[1].endpoint: expected one that no other node has, ")


def test_the_password_in_an_endpoint_is_not_shown(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, '[[nodes]]\nname = "a"\nendpoint = "http://me:hunter2@gpu"\n')
    assert line == (
        "nodes[0].endpoint: expected a URL without a user: the node's key goes into api_key_file"
    )


def test_an_endpoint_that_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, '[[nodes]]\nname = "a"\nendpoint = 8080\n')
    assert line == "nodes[0].endpoint: expected a string, found 8080"


def test_two_nodes_at_one_endpoint_are_a_mistake(tmp_path: Path) -> None:
    """Each would be taken for a machine of its own, and the memory be given away twice."""
    text = "".join(
        f'[[nodes]]\nname = "{name}"\nendpoint = "{endpoint}"\n'
        for name, endpoint in (("a", "http://gpu"), ("b", "HTTP://Gpu:80/v1"))
    )
    assert lines(tmp_path, text) == [
        'nodes[1].endpoint: expected one that no other node has, found "http://gpu:80" of nodes[0]'
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"", "empty"),
        (b"one\ntwo\n", "more than one line"),
        ("schlüssel".encode(), "characters that no header can carry"),
        (b"\xff", "not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("key", ["api_key_file", "token_file"])
def test_a_secret_that_cannot_be_sent_is_a_mistake(
    tmp_path: Path, key: str, content: bytes | None, why: str
) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    node = '[[nodes]]\nname = "a"\nendpoint = "http://a"\n'
    setting = f'{key} = "{secret}"\n'
    text = node + setting if key == "api_key_file" else "[agent]\n" + setting + node
    where = "nodes[0].api_key_file" if key == "api_key_file" else "agent.token_file"
    assert lines(tmp_path, text) == [
        f'{where}: expected a file with one secret, found "{secret}": {why}'
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "binary.toml", {})


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    source = tmp_path / "cortex.toml"
    source.write_text(SEED)
    config = load(
        source,
        {
            "CORTEX_GATEWAY__LISTEN": "127.0.0.1:1",
            "CORTEX_LIMITS__MAX_QUEUE": "7",
            "CORTEX_EVICTION__IDLE_UNLOAD_S": "off",
            "CORTEX_LOG_LEVEL": "DEBUG",
        },
    )
    assert config.gateway.listen == "127.0.0.1:1"
    assert config.limits.max_queue == 7
    assert config.eviction.idle_unload_s is None


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("CORTEX_GATEWAY__LISEN", "x", 'environment CORTEX_GATEWAY__LISEN: unknown key, did you mean "listen"?'),
        ("CORTEX_LIMITS__MAX_QUEUE", "many", 'environment CORTEX_LIMITS__MAX_QUEUE: expected a whole number, found "many"'),
        ("CORTEX_NODES__0__NAME", "x", "environment CORTEX_NODES__0__NAME: there is no such key in the configuration"),
    ],
)  # fmt: skip
def test_mistakes_in_the_environment_name_the_variable(
    tmp_path: Path, variable: str, value: str, line: str
) -> None:
    (told,) = lines(tmp_path, NODE, **{variable: value})
    assert told.startswith(line)


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = Path("/somewhere/else.toml")
    assert find(named, {"CORTEX_CONFIG": "/env.toml"}) == named
    assert find(None, {"CORTEX_CONFIG": "/env.toml"}) == Path("/env.toml")
    (tmp_path / "cortex.toml").write_text("")
    assert find(None, {}) == Path("cortex.toml")


@pytest.mark.parametrize(
    "text",
    [
        '[[auth.keys]]\nname = "me"\nkey = "s3cret"\nkey_sha256 = "zz"\n',
        f'[[auth.keys]]\nname = "me"\nkey = "s3cret"\nkey_sha256 = "{"0" * 64}"\n',
        '[[auth.keys]]\nname = "me"\nkey_sha256 = "s3cret"\n',
        '[[auth.keys]]\nname = "me"\nkey = ["s3cret"]\n',
        '[[auth.keys]]\nname = "me"\nkye = "s3cret"\n',
        '[auth]\nkeys = ["s3cret"]\n',
        '[auth]\nkeys = "s3cret"\n',
        '[[auth.keys]]\nname = "a"\nkey = "s3cret"\n[[auth.keys]]\nname = "b"\nkey = "s3cret"\n',
    ],
)
def test_a_mistake_about_a_key_does_not_show_it(tmp_path: Path, text: str) -> None:
    """The line goes to a journal, and at a reload to the events."""
    told = "\n".join(lines(tmp_path, text))
    assert "auth.keys" in told
    assert "s3cret" not in told


def test_keys_are_never_shown(tmp_path: Path) -> None:
    source = tmp_path / "cortex.toml"
    source.write_text('[[auth.keys]]\nname = "me"\nkey = "s3cret"\n' + NODE)
    assert "s3cret" not in repr(load(source, {}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe", "not UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_a_key_file_has_a_key_in_it(tmp_path: Path, content: bytes | None, why: str) -> None:
    """An empty one would let everybody in."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    [line] = lines(tmp_path, f'[[auth.keys]]\nname = "me"\nkey_file = "{file}"\n' + NODE)
    assert f'auth.keys[0].key_file: expected a key, found "{file}": {why}' in line


def test_two_names_for_one_key_are_a_mistake(tmp_path: Path) -> None:
    """Else one of them would have the rights and the usage of the other."""
    digest = hashlib.sha256(b"same").hexdigest()
    [line] = lines(
        tmp_path,
        f'[[auth.keys]]\nname = "a"\nkey = "same"\n'
        f'[[auth.keys]]\nname = "b"\nkey_sha256 = "{digest}"\n' + NODE,
    )
    assert line.endswith("auth.keys[1]: expected a key of its own, found that of a")


tables = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["gateway", "nodes", "limits", "models", "listen", "name", "x y", ""]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f'"{key}" = {as_toml(item)}' for key, item in value.items())
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() else "-" for c in value) + '"'
    return str(value).lower()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(max_size=60)
    | st.dictionaries(
        st.sampled_from(["gateway", "nodes", "limits", "models", "auth", "other"]), tables
    ).map(lambda fields: "\n".join(f'"{k}" = {as_toml(v)}' for k, v in fields.items()))
)
def test_no_text_raises_anything_else(tmp_path: Path, text: str) -> None:
    source = tmp_path / "any.toml"
    source.write_bytes(text.encode(errors="replace"))
    try:
        load(source, {})
    except ConfigError as refused:
        assert refused.lines
        assert all("\n" not in line for line in refused.lines)


@pytest.mark.parametrize("key", ["x]", "none", "float", "]"])
def test_an_unknown_key_may_be_called_anything(tmp_path: Path, key: str) -> None:
    """Also like a part of pydantic's own paths."""
    (line,) = lines(tmp_path, f'[limits]\n"{key}" = 1\n{NODE}')
    assert line.startswith("limits.")
    assert "unknown key" in line
    assert any("unknown key" in line for line in lines(tmp_path, f'"{key}" = 1\n{NODE}'))


@pytest.mark.parametrize(("mode", "who"), [(0o660, "the group "), (0o646, "everybody")])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int, who: str) -> None:
    source = tmp_path / "cortex.toml"
    source.write_text(NODE)
    source.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        load(source, {})
    (line,) = refused.value.lines
    assert line.startswith(f"{source}: {who}")
    assert line.endswith(f" may write it: chmod go-w {source}")
    source.chmod(0o640)
    assert load(source, {}).nodes


def test_what_is_no_file_has_no_writers(tmp_path: Path) -> None:
    """As in `cortex check-config <(make-it)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    writer = threading.Thread(target=pipe.write_text, args=(NODE,))
    writer.start()
    assert load(pipe, {}).nodes
    writer.join()


def test_a_place_that_may_not_be_looked_into_is_told(monkeypatch: pytest.MonkeyPatch):
    """As /etc/cortex for a plain user; here a name that no file may have."""
    unreadable = Path("x" * 300)
    monkeypatch.setattr("cortex.config.load.SEARCH", (Path("no.toml"), unreadable))
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        load(None, {})
