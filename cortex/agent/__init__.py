"""The sidecar beside a node: reports what only its host can see, and restarts the node's service when told."""
