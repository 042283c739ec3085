"""Anthropic Messages and OpenAI Chat Completions, each to the other: pure, and incremental where they stream."""
