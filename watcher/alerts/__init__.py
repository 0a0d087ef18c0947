"""What people are told of: drift, health, notifications."""
