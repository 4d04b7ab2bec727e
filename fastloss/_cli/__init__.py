"""The subcommands of `python -m fastloss`."""
