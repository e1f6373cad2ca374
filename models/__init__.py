"""Networks by name, published pruning plans and small trained checkpoints."""

if __name__ == "models":
    raise ImportError(
        "The folder models/ was imported as `models`, but it is the package amc_tf.models: "
        "write `import amc_tf.models` (after `pip install .`, or from the checkout's root)."
    )
