"""``python -m experiments.code_names``, see :mod:`experiments.code_names.runs`."""

from experiments.code_names.runs import main

if __name__ == "__main__":
    main()
