"""The processes of the service, and where each of their parts is wired: serve, node and keeper."""
