"""``python -m experiments.longrange``, see :mod:`experiments.longrange.runs`."""

from experiments.longrange.runs import main

if __name__ == "__main__":
    main()
