"""How well does a supernet rank cells? ``python -m supernet.rank CHECKPOINT`` scores them and holds them to a table."""
