"""The dashboard and the alerts, read as Grafana and Prometheus read them."""
