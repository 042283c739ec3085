"""The only writer of the fleet's state: polling, loading, admission."""
