"""The command line: ``bitswap-onnx`` and ``python -m bitswap_onnx``."""

import signal


def main() -> None:
    """Load the command line, which takes a second or two, and run it.

    While libraries load there is nothing to clean up, so Ctrl-C ends the process at once, without a traceback.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bitswap_onnx.cli.main import main as run

    signal.signal(signal.SIGINT, usual)
    run()


if __name__ == "__main__":
    main()
