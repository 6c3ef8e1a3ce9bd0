"""Run the command line: ``python -m fibo_client``."""

from fibo_client.cli import main

if __name__ == "__main__":
    main()
