"""`python -m norml_cli` is `norml`."""

from norml_cli.app import main

if __name__ == "__main__":
    main()
