"""The planner in its plain form: every node looked at in full, every time. What `plan` must decide like."""
