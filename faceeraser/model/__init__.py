"""The networks: what they are made of, checkpoints, and using and comparing them."""
