"""What an operator can set: one module for each table of the configuration file."""
