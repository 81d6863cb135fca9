"""The FideDiff network: its parts, the one-step restoration and the model folder."""
