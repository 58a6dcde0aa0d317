"""From a checkpoint, or any torch module, to TFLite, ONNX and CoreML through their gates."""
