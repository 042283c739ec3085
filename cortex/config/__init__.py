"""The configuration file: its schema, and the loader that turns a mistake into one line."""
