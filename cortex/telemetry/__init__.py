"""Every metric and the log formatter."""
