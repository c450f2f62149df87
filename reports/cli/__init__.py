"""The commands of `python -m reports`, a file each; a command imports what it needs."""
