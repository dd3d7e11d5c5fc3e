"""Names of functions from their syntax trees: pLSTM beside other graph models, see :mod:`.runs`."""
