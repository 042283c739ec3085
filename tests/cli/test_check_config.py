from pathlib import Path

from cortex.cli import main
from cortex.cli.exit_codes import Exit

GOOD = """
[gateway]
listen = "127.0.0.1:8123"
[[nodes]]
name = "gpu-a"
endpoint = "http://gpu-a:8080"
pinned = ["acme/large"]
[models."acme/small"]
aliases = ["small"]
[aliases]
"big" = "acme/large"
"""


def test_a_good_file(capsys, tmp_path: Path):
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    for argv in (["check-config", str(file)], ["check-config", "--config", str(file)]):
        assert main(argv) == 0
        assert capsys.readouterr().out == (
            f"ok: {file}: 1 node, 2 models named, 2 aliases, 0 keys, listens on 127.0.0.1:8123\n"
        )


def test_every_mistake_is_a_line(capsys):
    Path("cortex.toml").write_text(GOOD.replace("name", "nme").replace("[gateway]", "[gatway]"))
    assert main(["check-config"]) == Exit.CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("cortex: cortex.toml") for line in lines)


def test_no_file(capsys):
    assert main(["check-config", "nowhere.toml"]) == Exit.CONFIG
    assert "nowhere.toml" in capsys.readouterr().err


def test_serve_refuses_a_bad_file(capsys):
    Path("cortex.toml").write_text("nonsense")
    assert main(["serve"]) == Exit.CONFIG
    assert "cortex.toml" in capsys.readouterr().err


def test_priorities_that_refuse_requests_are_warned_of(capsys, tmp_path: Path):
    file = tmp_path / "cortex.toml"
    for strategy, priority, warned in (
        ("priority", 50, True),
        ("priority", 100, False),
        ("forecast", 50, False),
        ("lru", 50, False),
    ):
        rules = f'[eviction]\nstrategy = "{strategy}"\n[models.m]\npriority = {priority}\n'
        file.write_text(GOOD + rules)
        assert main(["check-config", str(file)]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("ok: ")
        assert ("never makes room for one of lower priority" in err) is warned
        assert err.startswith("warning: ") is warned
