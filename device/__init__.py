"""Devices that run and time TFLite networks, and the conversion to TFLite."""

if __name__ == "device":
    raise ImportError(
        "The folder device/ was imported as `device`, but it is the package amc_tf.device: "
        "write `import amc_tf.device` (after `pip install .`, or from the checkout's root)."
    )
