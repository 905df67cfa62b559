"""The command line, and the only place where settings are read and objects are wired."""
