"""The server: a page for people, an HTTP API, metrics for Prometheus."""
