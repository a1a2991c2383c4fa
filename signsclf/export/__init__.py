"""Model artifacts: ONNX, int8, golden outputs, and verifying them."""
