"""The tasks of the command line; `run.py` is the scroll that runs any of them."""
