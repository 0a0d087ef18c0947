"""The status page: what the daemon does, for people (a page), for machines (JSON) and for Prometheus."""
