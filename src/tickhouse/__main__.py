"""`python -m tickhouse` is the command line."""

from tickhouse.cli import main

if __name__ == "__main__":
    main()
