"""Running as a service."""
