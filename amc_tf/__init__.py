"""AMC for TensorFlow and Keras: learned channel pruning that ends in a faster TFLite network.

Importing this package loads no TensorFlow; each public name loads its module when it is first used.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from amc_tf.android import export_android
    from amc_tf.budget import Budget
    from amc_tf.compress import compress
    from amc_tf.data import load_data
    from amc_tf.device.gpu_meter import GpuMeter
    from amc_tf.device.host_meter import HostMeter
    from amc_tf.device.phone_meter import PhoneMeter
    from amc_tf.device.table import LatencyTable, TableMeter
    from amc_tf.env import PruningEnv
    from amc_tf.errors import AmcError
    from amc_tf.graph import ChannelGraph, count_cost
    from amc_tf.image_data import ImageData
    from amc_tf.keras_data import as_image_data
    from amc_tf.network import NetworkFunction
    from amc_tf.plan import PruningPlan, uniform_plan
    from amc_tf.rebuild import rebuild
    from amc_tf.settings import AgentSettings, FinetuneSettings, SearchSettings
    from amc_tf.sparsify import sparsify
    from amc_tf.sparsity_plan import SparsityPlan
    from amc_tf.sweep import sweep

__all__ = [
    "AgentSettings",
    "AmcError",
    "Budget",
    "ChannelGraph",
    "FinetuneSettings",
    "GpuMeter",
    "HostMeter",
    "ImageData",
    "LatencyTable",
    "NetworkFunction",
    "PhoneMeter",
    "PruningEnv",
    "PruningPlan",
    "SearchSettings",
    "SparsityPlan",
    "TableMeter",
    "__version__",
    "as_image_data",
    "compress",
    "count_cost",
    "export_android",
    "load_data",
    "rebuild",
    "sparsify",
    "sweep",
    "uniform_plan",
]

_MODULE_OF = {
    "AgentSettings": "amc_tf.settings",
    "AmcError": "amc_tf.errors",
    "Budget": "amc_tf.budget",
    "ChannelGraph": "amc_tf.graph",
    "FinetuneSettings": "amc_tf.settings",
    "GpuMeter": "amc_tf.device.gpu_meter",
    "HostMeter": "amc_tf.device.host_meter",
    "ImageData": "amc_tf.image_data",
    "LatencyTable": "amc_tf.device.table",
    "NetworkFunction": "amc_tf.network",
    "PhoneMeter": "amc_tf.device.phone_meter",
    "PruningEnv": "amc_tf.env",
    "PruningPlan": "amc_tf.plan",
    "SearchSettings": "amc_tf.settings",
    "SparsityPlan": "amc_tf.sparsity_plan",
    "TableMeter": "amc_tf.device.table",
    "as_image_data": "amc_tf.keras_data",
    "compress": "amc_tf.compress",
    "count_cost": "amc_tf.graph",
    "export_android": "amc_tf.android",
    "load_data": "amc_tf.data",
    "rebuild": "amc_tf.rebuild",
    "sparsify": "amc_tf.sparsify",
    "sweep": "amc_tf.sweep",
    "uniform_plan": "amc_tf.plan",
}

# In a checkout device/ and models/ lie beside amc_tf/, not inside it; an installed package has them inside.
if not (Path(__file__).parent / "device").is_dir():
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> Any:
    """Loads the module of a public name on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, those not yet loaded too."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package as a module that importing amc_tf.rebuild does not rob of its function rebuild.

    The import system binds every imported submodule to its parent. For a submodule that is named like its
    public function the function must win, whichever is imported first.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _MODULE_OF or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
