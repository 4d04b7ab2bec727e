"""The specification: one file per stem, torch only, forward and explicit backward."""
