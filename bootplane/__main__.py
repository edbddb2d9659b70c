"""``python -m bootplane``: the command line."""

from bootplane.control.cli.main import main

if __name__ == "__main__":
    main()
