"""A package, unlike other folders of tests: what has its scope then ends with it.

The browser keeps an event loop running in this thread, in which no other test could run its own.
"""
