"""Where `norml` and `python -m norml_cli` start."""

import gc
import signal
import sys


def main() -> None:
    """Run the command line.

    Python looks for garbage while it imports the command line's modules and finds none, which is a tenth of the time
    that `norml list` takes (chosen: measured by `nox -s bench -- --only commands`). So it looks only afterwards.
    """
    gc.disable()
    try:
        from norml_cli.app.main import main as run  # noqa: PLC0415 - not before the line above

        gc.freeze()
        gc.enable()
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more while Python leaves would only break that off


if __name__ == "__main__":
    main()
