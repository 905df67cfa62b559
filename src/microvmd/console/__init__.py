"""The web console: pages on the API's port for those who would rather look than read JSON."""
