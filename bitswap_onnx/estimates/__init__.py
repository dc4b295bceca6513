"""What runs and published files say: rates with intervals, per network, layer and bit."""
