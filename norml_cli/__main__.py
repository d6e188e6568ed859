"""Entry point of `norml` and `python -m norml_cli`."""

import gc
import signal
import sys


def main() -> None:
    """Run the command line.

    Garbage collection is off during the imports: it finds nothing there and takes a tenth of the time of `norml list`
    (chosen: measured by `nox -s bench -- --only commands`).
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would interrupt Python's own shutdown


if __name__ == "__main__":
    main()
