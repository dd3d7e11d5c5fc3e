"""Long-range tasks: pLSTM beside message passing and a graph transformer, see :mod:`.runs`."""
