"""What importing the meters costs: nothing that is not in the standard library or NumPy."""

import subprocess
import sys


def test_importing_the_meters_loads_neither_tensorflow_nor_a_runtime() -> None:
    code = (
        "import sys;"
        "import amc_tf.device.latency, amc_tf.device.host_meter, amc_tf.device.store, amc_tf.device.convert;"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'ai_edge_litert')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
