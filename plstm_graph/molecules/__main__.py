"""``python -m plstm_graph.molecules``, the same as ``plstm-graph``."""

import sys

from plstm_graph.molecules.cli import main

sys.exit(main())
