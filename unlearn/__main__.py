"""``python -m unlearn``: the same command line, for launchers that start a module."""

from unlearn.cli.main import main

if __name__ == "__main__":
    main()
