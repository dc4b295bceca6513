"""``python -m bitswap_onnx``: the command line."""

from bitswap_onnx.cli.main import main

main()
