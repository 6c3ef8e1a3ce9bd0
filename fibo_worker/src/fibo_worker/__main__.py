"""Run the command line: ``python -m fibo_worker``."""

from fibo_worker.cli import main

if __name__ == "__main__":
    main()
