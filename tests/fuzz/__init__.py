"""Coverage-guided fuzzing: a target a file, each with `SEEDS` and `one(data)`, which raises where something is wrong."""

TARGETS = ("http1", "envelope", "translate", "streams", "configuration", "agentreport")
