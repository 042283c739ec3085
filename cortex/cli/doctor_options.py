"""The options of `cortex doctor`. Standard library only."""

SHORT = "look for what is wrong"
LONG = """\
Look at everything that could be wrong, and say what to do: configuration, keys, addresses,
state file, disk, systemd unit, time-outs that contradict each other; the gateway, where one
answers; every node as this machine reaches it (version and what it cannot do, clock, memory,
models, agent); pinned models that are absent, sizes that nobody knows. Nothing is changed.
Exit code 1 when there is an error."""
JSON = "print the findings as JSON, for scripts"
