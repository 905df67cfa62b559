"""The command line: one module for each group of commands, which all ask the running service."""
