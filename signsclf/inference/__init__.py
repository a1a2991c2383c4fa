"""Prediction with NumPy, Pillow and ONNX Runtime alone."""
