"""Nodes for demo and tests: a scripted one, and one over mistral.rs's own engine. Independent of the rest of cortex."""
