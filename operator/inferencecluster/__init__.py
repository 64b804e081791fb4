"""InferenceCluster operator: prefill, decode and mixed pools of GPU engines that follow live demand."""

__version__ = "0.1.0"
