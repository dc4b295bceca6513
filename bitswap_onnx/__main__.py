"""The command line: ``bitswap-onnx`` and ``python -m bitswap_onnx``."""

from bitswap_onnx.cli.interrupts import ending_at_once


def main() -> None:
    """Load the command line and run it."""
    with ending_at_once():
        from bitswap_onnx.cli.main import main as run
    run()


if __name__ == "__main__":
    main()
